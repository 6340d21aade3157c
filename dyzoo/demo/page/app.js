// The page: what a visitor does, and what is shown then.

import { Camera } from "./camera.js";
import { Detector } from "./client.js";
import { choose, toJson } from "./detections.js";
import { ClassFilter, addError, listDetections, listPictures, save } from "./lists.js";
import { openPicture } from "./pictures.js";
import { View } from "./view.js";

const MOST_NAME = 120; // letters of a file's name that are shown
const $ = (id) => document.getElementById(id);

const camera = new Camera();
const pictures = []; // { name, file, found }, in the order in which they came
let settings, detector, view, filter;
let shown = null; // { name, size, detections, milliseconds }
let round = 0; // grows with each thing that a visitor asks for; an answer to an older one is not shown

function say(line) {
  if ($("status").textContent !== line) $("status").textContent = line;
}

const complain = (error) => addError($("errors"), String(error.message ?? error));

function shownDetections() {
  return shown === null ? [] : choose(shown.detections, Number($("threshold").value), (label) => filter.isChosen(label));
}

/** Show what is chosen of what was found. */
function refresh() {
  const least = Number($("threshold").value);
  $("threshold-shown").textContent = least.toFixed(2);
  const detections = shownDetections();
  filter.count(shown === null ? [] : choose(shown.detections, least, () => true));
  view.overlay(detections);
  $("count").textContent = shown === null ? "Objects" : `${detections.length} ${detections.length === 1 ? "object" : "objects"}`;
  const now = shown;
  listDetections($("found"), detections, settings, (marked) => {
    if (shown === now) view.overlay(shownDetections(), marked); // the camera may have gone on
  });
  for (const id of ["save-png", "save-json"]) $(id).disabled = shown === null;
}

/** Say which picture is shown, if any. */
function sayShown() {
  if (shown === null) return say("Ready");
  const { name, size, milliseconds } = shown;
  say(`${name}: ${size[1]} x ${size[0]} pixels, ${Math.round(milliseconds)} ms`);
}

function present(name, found) {
  shown = { name, ...found };
  sayShown();
  refresh();
}

const listOpened = (picture) => listPictures($("opened"), pictures, picture, (chosen) => open([chosen]));

/** Show one of the opened pictures; it is detected in once. */
async function showPicture(picture, asked) {
  say(`${picture.name}: opening`); // at once: what stands there is of another picture
  const bitmap = await openPicture(picture.file, picture.name);
  if (asked !== round) return bitmap.close();
  shown = null;
  view.show(bitmap, picture.name);
  $("invitation").hidden = true;
  refresh();
  listOpened(picture);
  if (picture.found) bitmap.close();
  else {
    say(`${picture.name}: detecting`);
    picture.found = await detector.detect(bitmap);
  }
  if (asked === round) present(picture.name, picture.found);
}

/** Detect in pictures one after the other; one that cannot be read is one line, and the others still come. */
async function open(chosen) {
  const asked = ++round;
  stopCamera();
  $("errors").replaceChildren();
  for (const picture of chosen) {
    if (asked !== round) return;
    try {
      await showPicture(picture, asked);
    } catch (error) {
      if (asked !== round) return;
      complain(error);
      pictures.splice(pictures.indexOf(picture), 1);
      listOpened(pictures.find(({ found }) => found !== null && found.detections === shown?.detections));
      sayShown();
    }
  }
}

function openFiles(files) {
  if (!files.length) return;
  pictures.length = 0;
  pictures.push(...Array.from(files, (file) => ({ name: (file.name || "pasted picture").slice(0, MOST_NAME), file, found: null })));
  return open([...pictures]);
}

async function openSample() {
  const answer = await fetch(settings.sample).catch(() => null);
  if (!answer?.ok) return complain(new Error(`${settings.sample} is missing: write the page again`));
  return openFiles([new File([await answer.blob()], settings.sample)]);
}

function stopCamera() {
  camera.stop();
  $("status").setAttribute("aria-live", "polite");
  $("camera").textContent = "Start camera";
  $("camera").setAttribute("aria-pressed", "false");
}

async function runCamera() {
  const asked = ++round;
  $("errors").replaceChildren();
  try {
    await camera.start();
    if (asked !== round) return stopCamera();
    pictures.length = 0;
    listOpened(null);
    $("status").setAttribute("aria-live", "off"); // nobody wants to hear of every frame
    $("camera").textContent = "Stop camera";
    $("camera").setAttribute("aria-pressed", "true");
    $("invitation").hidden = true;
    while (asked === round && camera.isOn) {
      if (camera.hasEnded) throw new Error("the camera has gone: connect it, then start it again");
      const frame = await camera.frame();
      const kept = await createImageBitmap(frame); // shown with its boxes, not before
      const found = await detector.detect(frame);
      if (asked === round && camera.isOn) {
        view.show(kept, "camera");
        present("camera", found);
      }
      kept.close();
    }
  } catch (error) {
    if (asked === round) complain(error);
  }
  if (asked === round) stopCamera();
}

async function savePng() {
  try {
    save(await view.toPng(), `${shown.name.replace(/\.[^.]*$/, "")}_detections.png`);
  } catch (error) {
    complain(error);
  }
}

function saveJson() {
  const text = JSON.stringify(toJson(shown.name, shown.size, shownDetections(), settings.labels), null, 2);
  save(new Blob([text, "\n"], { type: "application/json" }), `${shown.name.replace(/\.[^.]*$/, "")}_detections.json`);
}

function listen() {
  $("files").addEventListener("change", (event) => {
    openFiles([...event.target.files]);
    event.target.value = ""; // the same file may be chosen again
  });
  $("sample").addEventListener("click", openSample);
  $("camera").addEventListener("click", () => {
    if (!camera.isOn) return runCamera();
    round++;
    stopCamera();
  });
  $("save-png").addEventListener("click", savePng);
  $("save-json").addEventListener("click", saveJson);
  $("threshold").addEventListener("input", refresh);
  $("all-classes").addEventListener("click", () => filter.setAll(true));
  $("no-classes").addEventListener("click", () => filter.setAll(false));
  document.addEventListener("paste", (event) => openFiles(event.clipboardData?.files ?? []));
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      $("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
      if (kind === "drop") openFiles(event.dataTransfer.files);
    });
  }
}

async function start() {
  $("unserved").remove();
  $("main").hidden = false;
  try {
    const answer = await fetch("detector.json").catch(() => null);
    if (!answer?.ok) throw new Error("detector.json is missing: write the page again");
    settings = await answer.json();
    document.title = settings.title;
    $("title").textContent = settings.title;
    $("threshold").value = settings.threshold;
    view = new View($("view"), settings);
    filter = new ClassFilter($("classes"), settings, refresh);
    refresh();
    detector = new Detector((part) => {
      if (part === null) $("progress").removeAttribute("value");
      else $("progress").value = part;
      say(part === null ? "Preparing the detector" : `Loading the detector: ${Math.floor(part * 10)}0%`);
    });
    listen(); // pictures may come while it loads: they wait for it
    const { threads } = await detector.load(settings);
    if (round === 0) say("Ready");
    $("about").textContent = `${settings.about} ${threads === 1 ? "One thread" : `${threads} threads`}.`;
  } catch (error) {
    complain(error);
    say("The detector could not be loaded");
    for (const control of document.querySelectorAll("button, input")) control.disabled = true;
  }
  $("progress").remove();
}

start();
