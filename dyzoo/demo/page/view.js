// The picture and, on a second canvas, what was found in it, as sharp as the screen is.

import { drawDetections } from "./drawing.js";

const MOST_DRAWN = 16e6; // pixels of a canvas that every browser has
const LEAST_SAVED = 640; // pixels of a saved picture's longer side: letters need room

export class View {
  constructor(root, settings) {
    this.root = root;
    this.picture = root.querySelector("#picture");
    this.boxes = root.querySelector("#boxes");
    this.settings = settings;
    this.size = [0, 0];
    this.detections = [];
    this.marked = null;
    new ResizeObserver(() => this.draw()).observe(this.picture);
  }

  /** Show a bitmap, which stays the caller's. */
  show(bitmap, name) {
    const { width, height } = bitmap;
    const scale = Math.min(Math.sqrt(MOST_DRAWN / (width * height)), 1);
    this.size = [height, width];
    this.picture.width = Math.max(Math.floor(width * scale), 1);
    this.picture.height = Math.max(Math.floor(height * scale), 1);
    const context = this.picture.getContext("2d");
    context.fillStyle = "white";
    context.fillRect(0, 0, this.picture.width, this.picture.height);
    context.drawImage(bitmap, 0, 0, this.picture.width, this.picture.height);
    // as large as there is room for, but small pictures at most three times as large as they are
    this.root.style.width = `min(100%, ${3 * width}px, ${(72 * width) / height}vh)`;
    this.picture.setAttribute("aria-label", name);
    this.root.hidden = false;
  }

  /** Draw detections, best first, over the picture. */
  overlay(detections, marked = null) {
    this.detections = detections;
    this.marked = marked;
    this.draw();
  }

  draw() {
    const { width, height } = this.picture.getBoundingClientRect();
    const unit = window.devicePixelRatio || 1;
    this.boxes.width = Math.max(Math.round(width * unit), 1);
    this.boxes.height = Math.max(Math.round(height * unit), 1);
    const scale = this.boxes.width / this.size[1];
    drawDetections(this.boxes.getContext("2d"), this.detections, scale, unit, this.settings, this.marked);
  }

  /** A PNG of the picture with what is drawn over it; a small one is enlarged by a whole number. */
  async toPng() {
    const { width, height } = this.picture;
    const zoom = Math.ceil(LEAST_SAVED / Math.max(width, height));
    const canvas = document.createElement("canvas");
    canvas.width = width * zoom;
    canvas.height = height * zoom;
    const context = canvas.getContext("2d");
    context.drawImage(this.picture, 0, 0, canvas.width, canvas.height);
    const unit = Math.max(Math.sqrt(canvas.width * canvas.height) / 800, 1);
    drawDetections(context, this.detections, canvas.width / this.size[1], unit, this.settings);
    return new Promise((resolve, reject) =>
      canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("the picture cannot be saved"))), "image/png"),
    );
  }
}
