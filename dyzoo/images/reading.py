"""Image files and arrays of every kind, as 8-bit RGB.

EXIF orientation is applied, transparency is laid over white, 16-bit values are scaled by their full range
(65535 becomes 255). Whatever cannot be read is an `ImageError` of one line.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, TypeGuard

import numpy as np
from PIL import Image, JpegImagePlugin

from dyzoo.errors import ImageError, first_line
from dyzoo.files import open_regular
from dyzoo.images.finding import IMAGE_SUFFIXES, at_home, expand
from dyzoo.images.pixels import SWAPS_SIDES, Area, array_to_rgb, orientation, upright_rgb, without_warnings
from dyzoo.text import printable

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Picture:
    """An image file as it was read, the whole of it, but maybe at a reduced scale.

    Attributes:
        image: 8-bit RGB, upright.
        size: (H, W) of the file in pixels, upright; those of `image` where the scale is not reduced.
        path: the file, where it is one of its own.
        source: what it was read from, as a user would name it: a path, an address, an archive's member; None for what
            was in memory.
        frame: its number in a film or stream, from 0.
        time_s: its time in a film or stream, in seconds from the start.
    """

    image: Image.Image
    size: tuple[int, int]
    path: Path | None = None
    source: str | None = None
    frame: int | None = None
    time_s: float | None = None


ImageSource: TypeAlias = "str | Path | Image.Image | np.ndarray | Tensor | Picture"
"""Kinds of images that `to_picture` takes, and but for the last `to_rgb`."""

MAX_PIXELS = 2**27
"""Pixels of the largest file that is decoded unless more are allowed, 134 million: the cameras of today have up to 102
million, and each copy of so many takes 400 MB. Pillow itself refuses twice `PIL.Image.MAX_IMAGE_PIXELS`, 179 million.
"""

MAX_SCANS = 100
"""Scans of the most elaborate JPEG that is decoded from memory. Encoders make about ten of a progressive one; each goes
over all of its pixels, so a small file of thousands keeps a processor busy for hours."""

REDUCED_ABOVE = 2**25
"""Pixels (34 million) beyond which `read_picture` has a JPEG decoded at 1/2, 1/4 or 1/8 of its scale."""

# Pillow knows more formats, but some of them start other programs (EPS runs Ghostscript): too much for a file of a
# stranger.
_PILLOW_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000")


def read_image(path: str | Path, max_pixels: int | None = None) -> Image.Image:
    """Read a file as 8-bit RGB, upright. Of a film or a stack of pages, the first image.

    Args:
        path: a regular file.
        max_pixels: a larger image is refused before it is decoded; None for `MAX_PIXELS`.

    Raises:
        ImageError: no such file, a folder, not an image, damaged or truncated, or more pixels than allowed, here or by
            Pillow (`PIL.Image.MAX_IMAGE_PIXELS`, a guard against decompression bombs).
    """
    with _open(path) as image:
        return _decode(image, path, _limit(max_pixels))


def read_picture(
    path: str | Path,
    least_size: Callable[[tuple[int, int]], tuple[int, int]] = lambda _: (1, 1),
    max_pixels: int | None = None,
) -> Picture:
    """Read a file as `read_image` does, but a JPEG of more than `REDUCED_ABOVE` pixels at a reduced scale.

    Args:
        path: a regular file.
        least_size: gives for the (H, W) of the file the smallest one of use; the scale is not reduced below it.
        max_pixels: as for `read_image`; of a JPEG they are counted at the reduced scale, unless it is progressive and
            needs memory for all of them.

    Raises:
        ImageError: as `read_image`.
    """
    with _open(path) as image:
        return _as_picture(image, path, least_size, max_pixels, Path(path))


def decode_picture(
    content: bytes,
    name: str,
    least_size: Callable[[tuple[int, int]], tuple[int, int]] = lambda _: (1, 1),
    max_pixels: int | None = None,
) -> Picture:
    """The same for the content of an image file that is in memory; errors call it `name`.

    Raises:
        ImageError: as `read_image`, or a JPEG of more than `MAX_SCANS` scans: such content comes from strangers.
    """
    if content.startswith(b"\xff\xd8") and (scans := content.count(b"\xff\xda")) > MAX_SCANS:
        raise ImageError(f"{name} is a JPEG of {scans} scans, expected at most {MAX_SCANS}")
    return _as_picture(_identify(BytesIO(content), name), name, least_size, max_pixels, None)


def check_pixels(name: str | Path, width: int, height: int, max_pixels: int | None) -> None:
    """Refuse what has more pixels than may be decoded, None for `MAX_PIXELS`. Raises `ImageError`."""
    limit = _limit(max_pixels)
    if width * height > limit:
        raise ImageError(
            f"{name} has {width} x {height} pixels, {width * height / 1e6:.0f} million, expected at most "
            f"{limit / 1e6:.0f} million: cut it into tiles, or allow more with max_pixels (--max-pixels)"
        )


def read_image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) that `read_image` would give, from the file's header alone. Raises `ImageError` likewise."""
    with _open(path) as image:
        return _upright_size(image)


def read_image_format(path: str | Path) -> str:
    """Pillow's name of the format, such as "JPEG", whatever the suffix. Raises `ImageError` as `read_image` does."""
    with _open(path) as image:
        return image.format or ""


def to_picture(
    source: ImageSource,
    least_size: Callable[[tuple[int, int]], tuple[int, int]] = lambda _: (1, 1),
    max_pixels: int | None = None,
) -> Picture:
    """`read_picture` for a path, the `Picture` of `to_rgb` for what is in memory already."""
    if isinstance(source, Picture):
        return source
    if isinstance(source, str | Path):
        return read_picture(source, least_size, max_pixels)
    image = to_rgb(source)
    return Picture(image, (image.height, image.width))


def to_rgb(source: str | Path | Image.Image | np.ndarray | Tensor) -> Image.Image:
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
            return upright_rgb(source)
        except ImageError:
            raise
        except Exception as error:  # opening is lazy: this may be the moment the file is decoded
            raise ImageError(f"the PIL image cannot be used: {first_line(error)}") from None
    if is_tensor(source):
        if source.ndim != 3 or source.shape[0] not in (1, 3, 4):
            raise ImageError(f"image tensor is {tuple(source.shape)}, expected (3, H, W)")
        tensor = source.detach().cpu()
        return array_to_rgb((tensor.float() if tensor.is_floating_point() else tensor).permute(1, 2, 0).numpy())
    if isinstance(source, np.ndarray):
        return array_to_rgb(source)
    raise ImageError(f"image is a {type(source).__name__}, expected a path, a PIL image, an array or a tensor")


def is_tensor(source: Any) -> TypeGuard[Tensor]:
    """Whether it is PyTorch's; where that was never imported, nothing is."""
    return "torch" in sys.modules and isinstance(source, sys.modules["torch"].Tensor)


@contextmanager
def _open(path: str | Path) -> Iterator[Image.Image]:
    """Open without decoding the pixels."""
    path = at_home(path)
    try:
        file = open_regular(path)
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{path} is a folder, {_held_by(path)}") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise ImageError(f"{path} cannot be opened: {getattr(error, 'strerror', None) or first_line(error)}") from None
    with file:
        yield _identify(file, path)


def _held_by(folder: Path) -> str:
    try:
        return "expected an image file" if expand(folder) else f"it holds no image ({', '.join(IMAGE_SUFFIXES)})"
    except OSError as error:
        return f"which cannot be read: {error.strerror or first_line(error)}"


def _identify(file: BinaryIO, path: str | Path) -> Image.Image:
    try:
        with without_warnings():  # of sizes up to half of what is an error, and of damaged metadata
            return Image.open(file, formats=_PILLOW_FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path} is too large: {first_line(error)}") from None
    except Image.UnidentifiedImageError:
        what = "is empty" if file.seek(0, os.SEEK_END) == 0 else "is not an image of a known format"
        raise ImageError(f"{path} {what} ({', '.join(_PILLOW_FORMATS)})") from None
    except Exception as error:  # as in read_image
        raise ImageError(f"{path} cannot be opened: {first_line(error)}") from None


def _as_picture(
    image: Image.Image,
    name: str | Path,
    least_size: Callable[[tuple[int, int]], tuple[int, int]],
    max_pixels: int | None,
    path: Path | None,
) -> Picture:
    width, height = _upright_size(image)
    area = _draft(image, least_size((height, width)), _limit(max_pixels))
    return Picture(_decode(image, name, _limit(max_pixels), area), (height, width), path, printable(str(name)))


def _limit(max_pixels: int | None) -> int:
    return MAX_PIXELS if max_pixels is None else max_pixels


def _upright_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    return (height, width) if orientation(image) in SWAPS_SIDES else (width, height)


def _draft(image: Image.Image, least_size: tuple[int, int], max_pixels: int) -> Area | None:
    """Have a large JPEG decoded at the largest scale with at most `REDUCED_ABOVE` pixels, but not below a size (H, W).

    The decoder makes fewer pixels in the first place (by a smaller inverse transform), in less time and memory.

    Returns:
        What the whole image is of the reduced one, whose last row and column may reach beyond it; None: not reduced.
    """
    pixels = image.width * image.height
    if not isinstance(image, JpegImagePlugin.JpegImageFile) or pixels <= REDUCED_ABOVE:
        return None
    if "progressive" in image.info and pixels > max_pixels:
        return None
    least = sorted(least_size)
    scales = [s for s in (1, 2, 4, 8) if min(image.size) // s >= least[0] and max(image.size) // s >= least[1]]
    scale = next((s for s in scales if pixels <= s * s * REDUCED_ABOVE), max(scales, default=1))
    drafted = image.draft(None, (image.width // scale, image.height // scale))
    return drafted[1] if drafted else None


def _decode(image: Image.Image, path: str | Path, max_pixels: int, area: Area | None = None) -> Image.Image:
    """Check the size of an opened file, and only then decode it."""
    check_pixels(path, image.width, image.height, max_pixels)
    try:
        return upright_rgb(image, area)
    except Exception as error:  # decoders of damaged files raise almost anything
        raise ImageError(f"{path} is damaged: {first_line(error)}") from None
