"""Where a deformable convolution reads: bilinear corners over packed rows, for one map or a whole pyramid at once.

A map is a run of rows in a packed (N, S, C) buffer, channels last, so that one corner is one row: index and weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

# Outside any map, and still exact as int32 and as float32.
FAR = 2**24


class OutputMap(NamedTuple):
    """One run of output positions: its own (H, W) and the map of the packed buffer that it samples."""

    size: tuple[int, int]
    source_size: tuple[int, int]
    source_start: int
    stride: tuple[int, int] = (1, 1)


@dataclass(frozen=True, eq=False)
class SamplingGrid:
    """P output positions of K taps, all maps one after the other.

    With offset groups, G of them, a pixel is G rows of C / G channels each and the groups' taps follow each other.

    Attributes:
        position: (P, K, 2), undeformed (y, x) of each tap in pixels of its source map.
        last: (P, K, 2) int32, (H - 1, W - 1) of the source map.
        line_rows: (P, K) int32, rows from one line of the source map to the next.
        start: (P, K) int32, packed row of the source map's first pixel.
        pixel_rows: rows from one pixel to the next, G.
    """

    position: Tensor
    last: Tensor
    line_rows: Tensor
    start: Tensor
    pixel_rows: int = 1


@lru_cache(maxsize=256)
def sampling_grid(
    maps: tuple[OutputMap, ...],
    kernel_size: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
    offset_groups: int = 1,
) -> SamplingGrid:
    """The grid of `maps`; cached, since every block and every step asks for the same few."""
    with torch.inference_mode(False):  # a cached tensor must also serve calls that record gradients
        taps = (_cells(kernel_size) * torch.tensor(dilation) - torch.tensor(padding)).repeat(offset_groups, 1)
        group = torch.arange(offset_groups).repeat_interleave(len(taps) // offset_groups)
        none = torch.empty(0, len(taps), 2)
        position, last, line_rows, start = [none], [none], [none[..., 0]], [none[..., 0]]
        for output in maps:
            height, width = output.source_size
            cells = _cells(output.size) * torch.tensor(output.stride)
            position.append(cells[:, None] + taps)
            last.append(torch.tensor([height - 1, width - 1]).expand(len(cells), len(taps), 2))
            line_rows.append(torch.tensor(width * offset_groups).expand(len(cells), len(taps)))
            start.append((output.source_start * offset_groups + group).expand(len(cells), -1))

        def pack(parts: list[Tensor], dtype: torch.dtype) -> Tensor:
            return torch.cat(parts).to(device, dtype)

        return SamplingGrid(
            pack(position, dtype),
            pack(last, torch.int32),
            pack(line_rows, torch.int32),
            pack(start, torch.int32),
            pixel_rows=offset_groups,
        )


def _cells(size: Sequence[int]) -> Tensor:
    """(H * W, 2), (y, x) of every cell, row by row."""
    return torch.cartesian_prod(*(torch.arange(length) for length in size)).view(-1, 2)


def sampling_corners(grid: SamplingGrid, offset: Tensor, mask: Tensor | None, image_rows: int) -> tuple[Tensor, Tensor]:
    """Packed rows and blending weights of the four corners of each tap.

    Args:
        offset: (N, P, K, 2), (dy, dx) in pixels of the source map, in the grid's dtype.
        mask: (N, P, K) or None.
        image_rows: packed rows from one image to the next.

    Returns:
        index (N, P, K, 4) int32, always a valid row; weight (N, P, K, 4), zero for a corner outside its map, the
        mask multiplied in, differentiable in `offset` and `mask`.
    """
    position = grid.position + offset
    low = position.detach().floor().clamp(-FAR, FAR)
    fraction = position - low
    # Clamped again as whole numbers: a NaN offset becomes a valid row with a NaN weight, never a wild address.
    low = low.to(torch.int32)
    corners = []
    for corner, share in ((low, 1 - fraction), (low + 1, fraction)):
        pixel = torch.minimum(corner.clamp(min=0), grid.last)
        corners.append((pixel.unbind(-1), (share * (pixel == corner)).unbind(-1)))

    images = torch.arange(offset.shape[0], dtype=torch.int32, device=offset.device).view(-1, 1, 1)
    start = grid.start + images * image_rows
    index, weight = [], []
    for (y, _), (y_share, _) in corners:
        line = start + y * grid.line_rows
        line_share = y_share if mask is None else y_share * mask
        for (_, x), (_, x_share) in corners:
            index.append(torch.add(line, x, alpha=grid.pixel_rows))
            weight.append(line_share * x_share)
    return torch.stack(index, dim=-1), torch.stack(weight, dim=-1)
