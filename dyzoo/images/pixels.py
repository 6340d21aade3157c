"""Every kind of pixels as 8-bit RGB: modes of PIL images, their EXIF orientation, arrays."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
from PIL import ExifTags, Image

from dyzoo.errors import ImageError

Area: TypeAlias = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels

_TRANSPOSITIONS = {  # of the EXIF orientation tag
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SWAPS_SIDES = frozenset({5, 6, 7, 8})  # orientations that change width for height


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silence Pillow. Filters of warnings are those of the process, so only its main thread may change them for a time:
    what two threads restore is what one of them has set. For other threads `silence_pillow` is called once before."""
    if threading.current_thread() is threading.main_thread():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    else:
        yield


def silence_pillow() -> None:
    """Ignore Pillow's warnings, of damaged metadata and of large pictures, from now on."""
    warnings.filterwarnings("ignore", module=r"PIL\b")


def orientation(image: Image.Image) -> int:
    """The EXIF tag's value as far as it is left to us; 1 is upright."""
    if image.format == "TIFF":  # Pillow turns these itself
        return 1
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # getexif() would decode the whole image in search of a chunk behind the pixels
    try:
        with without_warnings():  # a damaged tag is no reason to refuse the pixels
            return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1


def upright_rgb(image: Image.Image, area: Area | None = None) -> Image.Image:
    """A new 8-bit RGB image, turned as its EXIF tag says, transparency laid over white.

    Args:
        image: a Pillow image of any mode.
        area: the part of `image`, before it is turned, that the new one shows; its size stays that of `image`.

    Raises:
        ImageError: grey values beyond 16 bits or, of floating point, beyond 0..1.
    """
    transposition = _TRANSPOSITIONS.get(orientation(image))  # asked before decoding, as read_image_size does
    rgb = _to_8bit_rgb(image)
    if area is not None and area[2:] != rgb.size:
        rgb = rgb.resize(rgb.size, Image.Resampling.BILINEAR, box=area)
    upright = rgb.transpose(transposition) if transposition is not None else rgb
    upright.info = {}  # the tag is used up, a second reader must not turn the image again
    return upright


def _to_8bit_rgb(image: Image.Image) -> Image.Image:
    """A new RGB image, never `image` itself."""
    if image.mode.startswith("I") or image.mode == "F":
        pixels = np.asarray(image)
        if image.mode.startswith("I"):
            if pixels.size and not 0 <= pixels.min() <= pixels.max() <= 65535:
                raise ImageError(f"grey values reach from {pixels.min()} to {pixels.max()}, expected 0..65535")
            pixels = pixels.astype(np.uint16)
        return array_to_rgb(pixels)
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), with_alpha).convert("RGB")
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def array_to_rgb(array: np.ndarray) -> Image.Image:
    """An array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) as an RGB image. Raises `ImageError`: another shape or type,
    values out of range."""
    pixels = _to_8bit(array)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))):
        hint = ": move the channels to the end" if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4) else ""
        raise ImageError(f"image array is {array.shape}, expected (H, W), (H, W, 3) or (H, W, 4){hint}")
    if 0 in pixels.shape:
        raise ImageError(f"image array is {array.shape}, expected at least one pixel")
    return _to_8bit_rgb(Image.fromarray(np.ascontiguousarray(pixels)))


def _to_8bit(array: np.ndarray) -> np.ndarray[Any, np.dtype[np.uint8]]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)  # rounds to the nearest of 0..255
    if np.issubdtype(array.dtype, np.floating):
        if array.size and not (array.min() >= 0 and array.max() <= 1):  # NaN fails this, too
            raise ImageError(f"float image reaches from {array.min():g} to {array.max():g}, expected 0..1")
        return np.rint(array * 255).astype(np.uint8)
    raise ImageError(f"image values are {array.dtype}, expected uint8, uint16, bool, or floating point in 0..1")
