"""Sizes of images on their way through the network, (H, W) in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from dyzoo.config import PreprocessConfig
from dyzoo.errors import ImageError

Size = int | Literal["native"] | None

MAX_BATCH_PIXELS = 2**28
"""Pixels of the largest batch, padding included, 268 million: one image of 16384 x 16384, or 99 of 1344 x 2016: that
is more than the largest GPUs train on. The batch alone takes 3.2 GB; what is out of all proportion ends in an error and
not in a machine without memory."""


def resized_size(height: int, width: int, shortest_edge: int, longest_edge: int) -> tuple[int, int]:
    """Size (H, W) with the shortest edge at `shortest_edge` px unless the longest would pass `longest_edge` px.

    The aspect ratio is kept up to rounding and no side is less than one pixel (detectron2's
    `ResizeShortestEdge` and mmdetection's `Resize(keep_ratio=True)` agree on this).
    """
    scale = min(shortest_edge / min(height, width), longest_edge / max(height, width))
    return max(round(height * scale), 1), max(round(width * scale), 1)


def most_images(size: tuple[int, int]) -> int:
    """Images of a padded size (H, W) that fit into a batch, at least one."""
    return max(MAX_BATCH_PIXELS // (size[0] * size[1]), 1)


def padded_size(sizes: Sequence[tuple[int, int]], divisor: int) -> tuple[int, int]:
    """(H, W) of a batch of images of these sizes (H, W): the largest, rounded up to multiples of `divisor`.

    Raises:
        ImageError: the batch would have more than `MAX_BATCH_PIXELS`.
    """
    height = -(-max((h for h, _ in sizes), default=0) // divisor) * divisor
    width = -(-max((w for _, w in sizes), default=0) // divisor) * divisor
    if len(sizes) * height * width > MAX_BATCH_PIXELS:
        several = f"{len(sizes)} images of " if len(sizes) > 1 else ""
        raise ImageError(
            f"the network's input would be {several}{height} x {width} pixels (H x W, multiples of {divisor}), "
            f"expected at most {MAX_BATCH_PIXELS / 1e6:.0f} million in all: choose a smaller size"
            f"{' or batch' if several else ''}"
        )
    return height, width


def network_size(config: PreprocessConfig, image_size: tuple[int, int], size: Size) -> tuple[int, int]:
    """(H, W) that an image of that (H, W) is resized to for `predict(size=size)`. Raises `ValueError`: no such size."""
    if size == "native":
        return image_size
    shortest = config.shortest_edge if size is None else size
    if isinstance(shortest, bool) or not isinstance(shortest, int) or shortest < 1:
        raise ValueError(f"size is {size!r}, expected a number of pixels, 'native' or None")
    if shortest * shortest > MAX_BATCH_PIXELS:
        raise ValueError(f"size is {shortest}, expected at most {int(MAX_BATCH_PIXELS**0.5)} pixels")
    return resized_size(*image_size, shortest, config.at(shortest).longest_edge)


def zoom(config: PreprocessConfig, image_size: tuple[int, int], size: Size) -> float:
    """Pixels of the network's input for one of an image of that (H, W), before rounding, for `predict(size=size)`."""
    if size == "native":
        return 1.0
    seen = config if size is None else config.at(size)
    return min(seen.shortest_edge / min(image_size), seen.longest_edge / max(image_size))
