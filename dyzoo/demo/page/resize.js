// Resizing as torchvision does it to 8-bit pictures: bilinear with antialiasing, in whole numbers, rows first.

const PRECISION_BITS = 22;
const WEIGHT_LIMIT = 1 << 15; // weights are 16-bit

/** The triangle filter of each output place along one axis: where it begins, how many pixels it takes, its weights. */
export function filterWeights(length, newLength) {
  const scale = length / newLength;
  const support = Math.max(scale, 1);
  const most = Math.ceil(support) * 2 + 1;
  const starts = new Int32Array(newLength);
  const counts = new Int32Array(newLength);
  const exact = new Float64Array(newLength * most);
  for (let place = 0; place < newLength; place++) {
    const center = scale * (place + 0.5);
    const start = Math.max(Math.trunc(center - support + 0.5), 0);
    const count = Math.min(Math.min(Math.trunc(center + support + 0.5), length) - start, most);
    let total = 0;
    for (let tap = 0; tap < count; tap++) {
      const weight = Math.max(1 - Math.abs((tap + start - center + 0.5) / support), 0);
      exact[place * most + tap] = weight;
      total += weight;
    }
    for (let tap = 0; tap < count; tap++) exact[place * most + tap] /= total;
    starts[place] = start;
    counts[place] = count;
  }
  const largest = exact.reduce((a, b) => Math.max(a, b), 0);
  let shift = 0;
  while (shift < PRECISION_BITS && Math.trunc(0.5 + largest * 2 ** (shift + 1)) < WEIGHT_LIMIT) shift++;
  const weights = Int32Array.from(exact, (weight) => Math.trunc(0.5 + weight * 2 ** shift));
  return { starts, counts, weights, most, shift };
}

function clamp(value) {
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

/** Pixels of `step` bytes each -> rows of `newWidth` RGB pixels. */
function resizeRows(pixels, step, height, width, newWidth) {
  const { starts, counts, weights, most, shift } = filterWeights(width, newWidth);
  const half = 1 << (shift - 1);
  const rows = new Uint8Array(height * newWidth * 3);
  let to = 0;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < newWidth; x++) {
      let from = (y * width + starts[x]) * step;
      const first = x * most;
      const end = first + counts[x];
      let red = half, green = half, blue = half;
      for (let tap = first; tap < end; tap++, from += step) {
        const weight = weights[tap];
        red += weight * pixels[from];
        green += weight * pixels[from + 1];
        blue += weight * pixels[from + 2];
      }
      rows[to++] = clamp(red >> shift);
      rows[to++] = clamp(green >> shift);
      rows[to++] = clamp(blue >> shift);
    }
  }
  return rows;
}

/** Pixels of `step` bytes each -> columns of `newHeight`, in planes: (3, newHeight, width). */
function resizeColumns(pixels, step, height, width, newHeight) {
  const { starts, counts, weights, most, shift } = filterWeights(height, newHeight);
  const half = 1 << (shift - 1);
  const plane = newHeight * width;
  const planes = new Uint8Array(3 * plane);
  for (let y = 0; y < newHeight; y++) {
    const first = y * most;
    const end = first + counts[y];
    for (let x = 0; x < width; x++) {
      let from = (starts[y] * width + x) * step;
      let red = half, green = half, blue = half;
      for (let tap = first; tap < end; tap++, from += width * step) {
        const weight = weights[tap];
        red += weight * pixels[from];
        green += weight * pixels[from + 1];
        blue += weight * pixels[from + 2];
      }
      const to = y * width + x;
      planes[to] = clamp(red >> shift);
      planes[to + plane] = clamp(green >> shift);
      planes[to + 2 * plane] = clamp(blue >> shift);
    }
  }
  return planes;
}

/** Pixels of `step` bytes each -> planes (3, height, width), unchanged. */
function toPlanes(pixels, step, count) {
  const planes = new Uint8Array(3 * count);
  for (let place = 0; place < count; place++) {
    for (let channel = 0; channel < 3; channel++) planes[channel * count + place] = pixels[place * step + channel];
  }
  return planes;
}

/**
 * Resize a picture.
 *
 * @param {Uint8ClampedArray|Uint8Array} rgba (height, width, 4)
 * @param {[number, number]} size height and width of the picture
 * @param {[number, number]} newSize those of the result
 * @returns {Uint8Array} (3, newHeight, newWidth), RGB
 */
export function resizeRgba(rgba, [height, width], [newHeight, newWidth]) {
  let pixels = rgba;
  let step = 4;
  if (width !== newWidth) {
    pixels = resizeRows(rgba, step, height, width, newWidth);
    step = 3;
  }
  if (height !== newHeight) return resizeColumns(pixels, step, height, newWidth, newHeight);
  return toPlanes(pixels, step, height * newWidth);
}
