"""Image files and arrays of every kind, as 8-bit RGB.

EXIF orientation is applied, transparency is laid over white, 16-bit values are scaled by their full range
(65535 becomes 255). Whatever cannot be read is an `ImageError` of one line.
"""

from __future__ import annotations

import glob
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import ExifTags, Image

from dyzoo.errors import ImageError, first_line

ImageSource: TypeAlias = str | Path | Image.Image | np.ndarray | torch.Tensor
"""What `to_rgb` takes."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")

# Pillow knows more formats, but some of them start other programs (EPS runs Ghostscript): too much for a file of a
# stranger.
_PILLOW_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000")

_TRANSPOSITIONS = {  # of the EXIF orientation tag
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = frozenset({5, 6, 7, 8})


def read_image(path: str | Path) -> Image.Image:
    """Read a file as 8-bit RGB, upright. Of a film or a stack of pages, the first image.

    Raises:
        ImageError: no such file, a folder, not an image, damaged or truncated, or more pixels than Pillow allows
            (`PIL.Image.MAX_IMAGE_PIXELS`, a guard against decompression bombs).
    """
    with _open(path) as image:
        try:
            return _upright_rgb(image)
        except Exception as error:  # decoders of damaged files raise almost anything
            raise ImageError(f"{path} is damaged: {first_line(error)}") from None


def read_image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) that `read_image` would give, from the file's header alone. Raises `ImageError` likewise."""
    with _open(path) as image:
        width, height = image.size
        return (height, width) if _orientation(image) in _SWAPS_SIDES else (width, height)


def to_rgb(source: ImageSource) -> Image.Image:
    """Bring any usual form of an image to 8-bit RGB.

    Args:
        source: a path; a PIL image (its EXIF orientation is applied as for a file); an array (H, W), (H, W, 1),
            (H, W, 3) or (H, W, 4); a tensor (1, H, W), (3, H, W) or (4, H, W). Channels are RGB or RGBA; values are
            uint8, uint16 (0..65535), bool, or floating point in 0..1.

    Raises:
        ImageError: the source cannot be read or has another shape, type or range of values.
    """
    if isinstance(source, str | Path):
        return read_image(source)
    if isinstance(source, Image.Image):
        try:
            return _upright_rgb(source)
        except ImageError:
            raise
        except Exception as error:  # opening is lazy: this may be the moment the file is decoded
            raise ImageError(f"the PIL image cannot be used: {first_line(error)}") from None
    if isinstance(source, torch.Tensor):
        if source.ndim != 3 or source.shape[0] not in (1, 3, 4):
            raise ImageError(f"image tensor is {tuple(source.shape)}, expected (3, H, W)")
        tensor = source.detach().cpu()
        return _array_to_rgb((tensor.float() if tensor.is_floating_point() else tensor).permute(1, 2, 0).numpy())
    if isinstance(source, np.ndarray):
        return _array_to_rgb(source)
    raise ImageError(f"image is a {type(source).__name__}, expected a path, a PIL image, an array or a tensor")


def list_images(patterns: str | Path | Iterable[str | Path]) -> list[Path]:
    """Find image files: naturally sorted (`2.jpg` before `10.jpg`), each once.

    Args:
        patterns: files (kept whatever their suffix), folders (the images directly inside), and globs (`**` goes
            into subfolders). Hidden files are passed over.

    What matches nothing is kept as it came: reading it then says so, and does not keep the others from being read.
    """
    if isinstance(patterns, str | Path):
        patterns = [patterns]
    found = {path for pattern in patterns for path in (_expand(Path(pattern).expanduser()) or [Path(pattern)])}
    return sorted(found, key=natural_key)


def natural_key(path: str | Path) -> list[tuple[int, int, str]]:
    """Sort key that orders runs of digits by their number."""
    parts = re.split(r"([0-9]+)", str(path))
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]


def is_image_file(path: Path) -> bool:
    """Whether this is a file that looks like an image by its name; hidden files do not."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _expand(pattern: Path) -> list[Path]:
    if pattern.is_dir():
        return [path for path in pattern.iterdir() if is_image_file(path)]
    if pattern.exists():
        return [pattern]
    matches = glob.glob(str(pattern), recursive=True)  # noqa: PTH207 (pathlib has none for absolute patterns)
    return [path for path in map(Path, matches) if is_image_file(path)]


def _open(path: str | Path) -> Image.Image:
    """Open without decoding the pixels."""
    path = Path(path).expanduser()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes up to half of what is an error, and of damaged metadata
            return Image.open(path, formats=_PILLOW_FORMATS)
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except IsADirectoryError:
        what = "expected an image file" if _expand(path) else f"it holds no image ({', '.join(IMAGE_SUFFIXES)})"
        raise ImageError(f"{path} is a folder, {what}") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path} is too large: {first_line(error)}") from None
    except Image.UnidentifiedImageError:
        what = "is empty" if path.stat().st_size == 0 else "is not an image of a known format"
        raise ImageError(f"{path} {what} ({', '.join(_PILLOW_FORMATS)})") from None
    except Exception as error:  # as in read_image
        raise ImageError(f"{path} cannot be opened: {first_line(error)}") from None


def _orientation(image: Image.Image) -> int:
    """The EXIF tag's value as far as it is left to us; 1 is upright."""
    if image.format == "TIFF":  # Pillow turns these itself
        return 1
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # getexif() would decode the whole image in search of a chunk behind the pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a damaged tag is no reason to refuse the pixels
            return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1


def _upright_rgb(image: Image.Image) -> Image.Image:
    transposition = _TRANSPOSITIONS.get(_orientation(image))  # asked before decoding, as read_image_size does
    rgb = _to_8bit_rgb(image)
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
        return _array_to_rgb(pixels)
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), with_alpha).convert("RGB")
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def _array_to_rgb(array: np.ndarray) -> Image.Image:
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
