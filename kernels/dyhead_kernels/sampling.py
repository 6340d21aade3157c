"""Where a deformable convolution reads: bilinear corners over packed rows, for one map or a whole pyramid at once.

A map is a run of rows in a packed (N, S, C) buffer, channels last, so that one corner is one row: index and weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


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
        size: (P, 1, 2) int32, (H, W) of the source map.
        start: (P, K) int32, packed row of the source map's first pixel.
        pixel_rows: rows from one pixel to the next, G.
    """

    position: Tensor
    size: Tensor
    start: Tensor
    pixel_rows: int = 1

    def __getitem__(self, positions: slice) -> SamplingGrid:
        """The grid of some of the positions."""
        return replace(
            self, position=self.position[positions], size=self.size[positions], start=self.start[positions]
        )


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
        position = [torch.empty(0, len(taps), 2)]
        size = [torch.empty(0, 1, 2)]
        start = [torch.empty(0, len(taps))]
        for output in maps:
            cells = _cells(output.size) * torch.tensor(output.stride)
            position.append(cells[:, None] + taps)
            size.append(torch.tensor(output.source_size).expand(len(cells), 1, 2))
            start.append((output.source_start * offset_groups + group).expand(len(cells), -1))
        return SamplingGrid(
            torch.cat(position).to(device, dtype),
            torch.cat(size).to(device, torch.int32),
            torch.cat(start).to(device, torch.int32),
            offset_groups,
        )


def _cells(size: Sequence[int]) -> Tensor:
    """(H * W, 2), (y, x) of every cell, row by row."""
    return torch.cartesian_prod(*(torch.arange(length) for length in size)).view(-1, 2)


def sampling_corners(
    grid: SamplingGrid, offset: Tensor, mask: Tensor | None, image_rows: int
) -> tuple[Tensor, Tensor]:
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
    low = position.detach().floor()
    fraction = position - low
    # Clamped as whole numbers: a NaN offset becomes a valid row with a NaN weight, never a wild address.
    low = low.to(torch.int32)
    corners = []
    for corner, share in ((low, 1 - fraction), (low + 1, fraction)):
        pixel = torch.minimum(corner.clamp(min=0), grid.size - 1)
        corners.append((pixel.unbind(-1), (share * (pixel == corner)).unbind(-1)))

    images = torch.arange(offset.shape[0], dtype=torch.int32, device=offset.device).view(-1, 1, 1)
    start = grid.start + images * image_rows
    line_rows = grid.size[..., 1] * grid.pixel_rows
    index, weight = [], []
    for (y, _), (y_share, _) in corners:
        line = start + y * line_rows
        line_share = y_share if mask is None else y_share * mask
        for (_, x), (_, x_share) in corners:
            index.append(torch.add(line, x, alpha=grid.pixel_rows))
            weight.append(line_share * x_share)
    return torch.stack(index, dim=-1), torch.stack(weight, dim=-1)
