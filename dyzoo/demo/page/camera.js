// The camera, one frame at a time: the next is taken when the last has been answered.

const REASONS = {
  NotAllowedError: "the camera was refused: allow it beside the page's address, then start it again",
  NotFoundError: "no camera was found: connect one, then start it again",
  NotReadableError: "the camera is used by another program: close that, then start it again",
};

export class Camera {
  constructor() {
    this.video = document.createElement("video");
    this.video.muted = true;
    this.video.playsInline = true;
    this.stream = null;
  }

  get isOn() {
    return this.stream !== null;
  }

  /** Ask for the camera; throws an `Error` of one line. */
  async start() {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error("the camera needs https, or a page served on this machine (localhost)");
    }
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({
        video: { facingMode: "environment", width: { ideal: 1280 }, height: { ideal: 720 } },
        audio: false,
      });
      this.video.srcObject = this.stream;
      await this.video.play();
    } catch (error) {
      this.stop();
      throw new Error(REASONS[error.name] ?? `the camera cannot be started: ${error.message}`);
    }
  }

  stop() {
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.video.srcObject = null;
    this.stream = null;
  }

  /** Whether the stream has ended by itself, as when a camera is unplugged. */
  get hasEnded() {
    return this.isOn && this.stream.getVideoTracks().every((track) => track.readyState === "ended");
  }

  frame() {
    return createImageBitmap(this.video);
  }
}
