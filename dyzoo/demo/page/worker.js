// The detector, beside the page's own thread: pictures come in as bitmaps, detections go out.

import { boxToPicture, networkSize } from "./detections.js";
import { resizeRgba } from "./resize.js";

let ort;
let session;
let settings;

/** A file of the page's folder as bytes; `onBytes` is told how many have come. */
async function fetchBytes(path, size, onBytes) {
  let response;
  try {
    response = await fetch(new URL(path, import.meta.url));
  } catch {
    throw new Error(`${path} cannot be fetched: is the server still there?`);
  }
  if (!response.ok) throw new Error(`${path} is missing (the server says ${response.status}): write the page again`);
  const bytes = new Uint8Array(size);
  let come = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    if (come + value.length > size) throw new Error(`${path} is longer than ${size} bytes: write the page again`);
    bytes.set(value, come);
    come += value.length;
    onBytes(value.length);
  }
  if (come !== size) throw new Error(`${path} has ${come} bytes, expected ${size}: load the page again`);
  return bytes;
}

async function load(given) {
  settings = given;
  const { model, runtime } = settings;
  const total = model.bytes + runtime.bytes;
  let come = 0;
  const onBytes = (count) => postMessage({ kind: "progress", part: (come += count) / total });
  try {
    ort = await import(new URL(runtime.module, import.meta.url));
  } catch {
    throw new Error(`${runtime.module} is missing or cannot be run here: write the page again, or use a newer browser`);
  }
  ort.env.wasm.wasmBinary = await fetchBytes(runtime.binary, runtime.bytes, onBytes);
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, 4) : 1;
  const bytes = await fetchBytes(model.file, model.bytes, onBytes);
  postMessage({ kind: "progress", part: null });
  session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"], logSeverityLevel: 4 });
  ort.env.wasm.wasmBinary = undefined;
  return { threads: ort.env.wasm.numThreads };
}

/** A bitmap's pixels, transparency laid over white. */
function pixelsOf(bitmap) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, canvas.width, canvas.height).data;
}

async function detect(bitmap) {
  const started = performance.now();
  const size = [bitmap.height, bitmap.width];
  const inNetwork = networkSize(size, settings.size);
  let pixels = resizeRgba(pixelsOf(bitmap), size, inNetwork);
  if (settings.input === "float32") pixels = Float32Array.from(pixels, (value) => value / 255);
  const tensor = new ort.Tensor(settings.input, pixels, [1, 3, ...inNetwork]);
  const { boxes, scores, labels, counts } = await session.run({ images: tensor }).catch((error) => {
    throw new Error(`the detector failed on ${size[1]} x ${size[0]} pixels: ${error.message ?? error}`);
  });
  const detections = [];
  for (let place = 0; place < Number(counts.data[0]); place++) {
    const box = Array.from(boxes.data.subarray(4 * place, 4 * place + 4));
    detections.push({
      label: Number(labels.data[place]),
      score: scores.data[place],
      box: boxToPicture(box, inNetwork, size, settings.inclusive_corners),
    });
  }
  return { size, detections, milliseconds: performance.now() - started };
}

onmessage = async ({ data }) => {
  try {
    const answer = data.kind === "load" ? await load(data.settings) : await detect(data.bitmap);
    postMessage({ kind: "answer", answer });
  } catch (error) {
    const line = String(error?.message ?? error).split("\n")[0];
    postMessage({ kind: "error", line });
  }
};
