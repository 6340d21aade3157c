// A page that was opened from disk may start no worker: the search then runs in a hidden frame, which this makes of it.
// The plugin `offline` knows a script for that by its name.
"use strict";
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      this.running = new Promise((resolve, reject) => {
        frame.onload = () => {
          frame.onload = null;
          const inside = frame.contentWindow;
          inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
          const script = inside.document.createElement("script");
          script.onload = () => resolve(inside);
          script.onerror = () => reject(new Error(`${address} cannot be loaded`));
          script.src = new URL(address, document.baseURI).href;
          inside.document.body.append(script);
        };
      });
      document.documentElement.append(frame);
    }

    postMessage(data) {
      this.running.then((inside) => inside.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
}
