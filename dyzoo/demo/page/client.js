// The page's side of the worker: one question at a time, answered by a promise.

export class Detector {
  /** @param {(part: number|null) => void} onProgress is told the loaded part in 0..1, null while it is prepared */
  constructor(onProgress) {
    this.worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    this.last = Promise.resolve();
    this.settle = null;
    this.worker.onmessage = ({ data }) => {
      if (data.kind === "progress") onProgress(data.part);
      else if (data.kind === "answer") this.settle?.resolve(data.answer);
      else this.settle?.reject(new Error(data.line));
    };
    this.worker.onerror = (event) => {
      event.preventDefault();
      this.settle?.reject(new Error(`the detector has stopped (${event.message || "worker.js is missing"}): load the page again`));
    };
  }

  /** Fetch and prepare the detector; gives the number of threads it runs on. */
  load(settings) {
    return this.ask({ kind: "load", settings });
  }

  /** Detections in a bitmap, which is used up. */
  detect(bitmap) {
    return this.ask({ kind: "detect", bitmap }, [bitmap]);
  }

  ask(question, transferred = []) {
    const answer = this.last.then(
      () =>
        new Promise((resolve, reject) => {
          this.settle = { resolve, reject };
          this.worker.postMessage(question, transferred);
        }),
    );
    this.last = answer.catch(() => {});
    return answer;
  }
}
