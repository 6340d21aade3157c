// Sizes and boxes between a picture and the network, the choice of what is shown, and its JSON.

/** Python's round(): halves go to the even neighbour. */
function roundHalfToEven(value) {
  const below = Math.floor(value);
  const rest = value - below;
  if (rest !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}

/** [height, width] that a picture is resized to, shortest edge `shortest` unless the longest would pass `longest`. */
export function networkSize([height, width], [shortest, longest]) {
  const scale = Math.min(shortest / Math.min(height, width), longest / Math.max(height, width));
  return [height, width].map((length) => Math.max(roundHalfToEven(length * scale), 1));
}

/** A box in pixels of the network's picture -> in pixels of the given one, inside it. */
export function boxToPicture(box, networkSize, size, inclusiveCorners) {
  const last = inclusiveCorners ? 1 : 0;
  return box.map((edge, place) => {
    const axis = place % 2 === 0 ? 1 : 0;
    const end = place < 2 ? 0 : last;
    const scaled = (edge - end) * (size[axis] / networkSize[axis]) + end;
    return Math.min(Math.max(scaled, 0), size[axis]);
  });
}

/** Detections of at least a score whose class is chosen, best first as they come. */
export function choose(detections, threshold, isChosen) {
  return detections.filter(({ score, label }) => score >= threshold && isChosen(label));
}

const round = (value, digits) => Number(value.toFixed(digits));

/** The same keys as `Detections.to_dict` of the Python package. */
export function toJson(name, [height, width], detections, labels) {
  return {
    path: null,
    source: name,
    frame: null,
    time_s: null,
    height_px: height,
    width_px: width,
    notes: [],
    detections: detections.map(({ label, score, box }) => ({
      name: labels[label],
      label,
      score: round(score, 4),
      box_xyxy: box.map((edge) => round(edge, 2)),
    })),
  };
}
