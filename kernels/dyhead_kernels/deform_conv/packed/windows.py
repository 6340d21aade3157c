"""Choice of windows for the kernel of `kernels_window.py`: where it is used, and with what tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...launch.launching import SMALLEST_BLOCK
from ...launch.tables import Maps, Segment
from .arguments import Windows

if TYPE_CHECKING:
    from .triton import Convolution

LEAST_MARGIN = 2
"""Pixels of a window beyond the samples of its tile without offsets: one on either side."""

Pair = tuple[int, int]


def windows_by_stride(conv: Convolution, segments: Maps, tile: Pair, window: Pair) -> tuple[tuple[Maps, Windows], ...]:
    """Output maps of each stride, and their windows of one size around tiles that are at most `tile`.

    None of it where too few channels share their samples for a product, or a window would hold too few positions:
    where stride, kernel and dilation spread the samples far.
    """
    key = (windows_by_stride, conv, segments, tile, window)  # kept with the maps, whose tables it leads to
    return segments.cache.made(key, lambda: _windows_by_stride(conv, segments, tile, window))


def _windows_by_stride(conv: Convolution, segments: Maps, tile: Pair, window: Pair) -> tuple[tuple[Maps, Windows], ...]:
    by_stride: dict[Pair, list[Segment]] = {}
    for segment in segments.maps:
        assert isinstance(segment, Segment)
        by_stride.setdefault((segment.stride_y, segment.stride_x), []).append(segment)
    found = []
    for stride, own in by_stride.items():
        height, width = (_side(conv, axis, tile[axis], window[axis], stride[axis]) for axis in range(2))
        if height * width < SMALLEST_BLOCK or conv.run < SMALLEST_BLOCK:
            return ()
        maps = segments if len(by_stride) == 1 else Maps(tuple(own), segments.cache)
        found.append((maps, Windows(height, width, *window)))
    return tuple(found)


def _side(conv: Convolution, axis: int, longest: int, window: int, stride: int) -> int:
    """Lines (or columns) of a tile: the longest, halved until its window has a margin; 0 if it never has."""
    reach = (conv.kernel[axis] - 1) * conv.dilation[axis]
    side = longest
    while side and window - ((side - 1) * stride + reach + 2) < LEAST_MARGIN:
        side //= 2
    return side
