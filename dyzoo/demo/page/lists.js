// The lists beside the picture. Names of classes and files come from strangers: they are text and nothing else.

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function swatch([color]) {
  const made = element("span", { className: "swatch" });
  made.style.background = color;
  return made;
}

/** The check boxes of the classes. */
export class ClassFilter {
  constructor(list, settings, onChange) {
    this.boxes = settings.labels.map(() => element("input", { type: "checkbox", checked: true }));
    this.numbers = settings.labels.map(() => element("span", { className: "number" }));
    settings.labels.forEach((name, label) => {
      const color = settings.colors[label % settings.colors.length];
      const line = element("label", {}, this.boxes[label], swatch(color), element("span", { textContent: name }));
      list.append(element("li", {}, line));
      line.append(this.numbers[label]);
    });
    list.addEventListener("change", onChange);
    this.onChange = onChange;
  }

  isChosen(label) {
    return this.boxes[label].checked;
  }

  setAll(isChosen) {
    for (const box of this.boxes) box.checked = isChosen;
    this.onChange();
  }

  /** Show how many of each class there are. */
  count(detections) {
    const counts = this.boxes.map(() => 0);
    for (const { label } of detections) counts[label]++;
    counts.forEach((count, label) => (this.numbers[label].textContent = count ? String(count) : ""));
  }
}

/** Fill the list of detections; `mark` is told the one that is pointed at or has the focus, or null. */
export function listDetections(list, detections, settings, mark) {
  const rows = detections.map((each) => {
    const button = element(
      "button",
      { type: "button" },
      swatch(settings.colors[each.label % settings.colors.length]),
      element("span", { textContent: settings.labels[each.label] }),
      element("span", { className: "number", textContent: each.score.toFixed(2) }),
    );
    button.addEventListener("pointerenter", () => mark(each));
    button.addEventListener("focus", () => mark(each));
    button.addEventListener("pointerleave", () => mark(null));
    button.addEventListener("blur", () => mark(null));
    return element("li", {}, button);
  });
  list.replaceChildren(...rows);
}

/** Fill the list of opened pictures, if there are several to choose from. */
export function listPictures(list, pictures, shown, choose) {
  const rows = pictures.map((picture) => {
    const button = element("button", { type: "button", textContent: picture.name, title: picture.name });
    button.setAttribute("aria-current", String(picture === shown));
    button.addEventListener("click", () => choose(picture));
    return element("li", {}, button);
  });
  list.replaceChildren(...(pictures.length > 1 ? rows : []));
}

/** One line more among the errors. */
export function addError(list, line) {
  list.append(element("li", { textContent: line }));
}

/** Have the browser save a blob. */
export function save(blob, name) {
  const address = URL.createObjectURL(blob);
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
