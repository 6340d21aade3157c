// Boxes and captions over a picture.

const intersects = (a, b) => a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;

/**
 * Draw detections, the best on top. A caption that would lie on one of a better detection is left out.
 *
 * @param {CanvasRenderingContext2D} context of a canvas of any size
 * @param {Array} detections best first, boxes in pixels of the picture
 * @param {number} scale pixels of the canvas for one of the picture
 * @param {number} unit pixels of the canvas for one of the screen: the size of lines and letters
 * @param {{labels: string[], colors: [string, string][]}} settings
 * @param {object|null} marked a detection to emphasise, whose caption is always there
 */
export function drawDetections(context, detections, scale, unit, settings, marked = null) {
  const { width, height } = context.canvas;
  const order = marked === null ? detections : [marked, ...detections.filter((each) => each !== marked)];
  for (const { label, box } of [...order].reverse()) {
    const [color] = settings.colors[label % settings.colors.length];
    const isMarked = marked !== null && box === marked.box;
    context.globalAlpha = marked === null || isMarked ? 1 : 0.35;
    context.lineWidth = (isMarked ? 4 : 2) * unit;
    const inset = context.lineWidth / 2;
    const [x1, y1, x2, y2] = box.map((edge) => edge * scale);
    context.strokeStyle = color;
    context.strokeRect(x1 + inset, y1 + inset, Math.max(x2 - x1 - 2 * inset, 1), Math.max(y2 - y1 - 2 * inset, 1));
  }
  context.globalAlpha = 1;
  context.font = `600 ${12 * unit}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  const placed = [];
  for (const each of marked === null ? order : [marked]) {
    const [background, ink] = settings.colors[each.label % settings.colors.length];
    const text = `${settings.labels[each.label]} ${each.score.toFixed(2)}`;
    const place = { width: Math.min(context.measureText(text).width + 8 * unit, width), height: 17 * unit };
    const [x1, y1] = each.box.map((edge) => edge * scale);
    place.x = Math.max(Math.min(x1, width - place.width), 0);
    place.y = Math.max(Math.min(y1 >= place.height ? y1 - place.height : y1, height - place.height), 0);
    if (placed.some((other) => intersects(place, other))) continue;
    placed.push(place);
    context.fillStyle = background;
    context.fillRect(place.x, place.y, place.width, place.height);
    context.fillStyle = ink;
    context.fillText(text, place.x + 4 * unit, place.y + place.height / 2, place.width - 8 * unit);
  }
}
