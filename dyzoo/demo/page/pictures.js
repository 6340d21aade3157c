// Opening files of strangers as bitmaps: bounded before they are decoded, upright, with the colours that are in the file.

export const MOST_PIXELS = 50e6;
const MOST_SIDE = 16384; // of a canvas in all browsers
const MOST_BYTES = 200e6;

/** [height, width] of an image file, upright, from its header. */
async function sizeOf(file, name) {
  const address = URL.createObjectURL(file);
  try {
    const image = new Image();
    await new Promise((resolve, reject) => {
      image.onload = resolve;
      image.onerror = () => reject(new Error(`${name} is no picture that this browser can read`));
      image.src = address;
    });
    return [image.naturalHeight, image.naturalWidth];
  } finally {
    URL.revokeObjectURL(address);
  }
}

/** The bitmap of an image file; throws an `Error` of one line. */
export async function openPicture(file, name) {
  if (file.size > MOST_BYTES) {
    throw new Error(`${name} has ${Math.round(file.size / 1e6)} MB, expected at most ${MOST_BYTES / 1e6}`);
  }
  const [height, width] = await sizeOf(file, name);
  if (height * width > MOST_PIXELS || Math.max(height, width) > MOST_SIDE) {
    throw new Error(
      `${name} is too large: ${width} x ${height} pixels, expected at most ${MOST_PIXELS / 1e6} million, ` +
        `${MOST_SIDE} a side`,
    );
  }
  try {
    return await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    throw new Error(`${name} is damaged, or no picture that this browser can read`);
  }
}
