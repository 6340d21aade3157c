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


class OutputMap(NamedTuple):
    """One run of output positions: its own size and the map of the packed buffer that it samples."""

    size: tuple[int, int]
    source_size: tuple[int, int]
    source_start: int
    stride: tuple[int, int]


@dataclass(frozen=True, eq=False)
class SamplingGrid:
    """P output positions of K taps, all maps one after the other.

    Attributes:
        y, x: (P, K) float32, undeformed sampling position of each tap in pixels of the source map.
        height, width: (P, 1) int32, size of the source map.
        start: (P, 1) int32, packed row of the source map's first pixel.
    """

    y: Tensor
    x: Tensor
    height: Tensor
    width: Tensor
    start: Tensor


@lru_cache(maxsize=256)
def sampling_grid(
    maps: tuple[OutputMap, ...],
    kernel_size: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
) -> SamplingGrid:
    """The grid of `maps`; cached, since every block and every step asks for the same few."""
    with torch.inference_mode(False):  # a cached tensor must also serve calls that record gradients
        ky, kx = torch.meshgrid(*(torch.arange(size) for size in kernel_size), indexing="ij")
        tap_y = ky.flatten() * dilation[0] - padding[0]
        tap_x = kx.flatten() * dilation[1] - padding[1]
        no_size = torch.empty(0, 1, dtype=torch.int32)
        y, x, height, width, start = [tap_y.new_empty(0, len(tap_y))], [tap_x.new_empty(0, len(tap_x))], [no_size], [no_size], [no_size]
        for output in maps:
            rows, columns = torch.meshgrid(*(torch.arange(size) for size in output.size), indexing="ij")
            y.append(rows.reshape(-1, 1) * output.stride[0] + tap_y)
            x.append(columns.reshape(-1, 1) * output.stride[1] + tap_x)
            positions = output.size[0] * output.size[1]
            height.append(torch.full((positions, 1), output.source_size[0], dtype=torch.int32))
            width.append(torch.full((positions, 1), output.source_size[1], dtype=torch.int32))
            start.append(torch.full((positions, 1), output.source_start, dtype=torch.int32))

        def pack(parts: Sequence[Tensor], to: torch.dtype) -> Tensor:
            return torch.cat([*parts]).to(device, to)

        return SamplingGrid(
            pack(y, dtype),
            pack(x, dtype),
            pack(height, torch.int32),
            pack(width, torch.int32),
            pack(start, torch.int32),
        )


def sampling_corners(
    grid: SamplingGrid, offset: Tensor, mask: Tensor | None, rows_per_image: int
) -> tuple[Tensor, Tensor]:
    """Packed rows and blending weights of the four corners of each tap.

    Args:
        offset: (N, P, K, 2), (dy, dx) in pixels of the source map; a dtype as wide as the grid's.
        mask: (N, P, K) or None.

    Returns:
        index (N, P, K, 4) int32 into the N * S packed rows, always valid; weight (N, P, K, 4), zero for a corner
        outside its map, the mask multiplied in, differentiable in `offset` and `mask`.
    """
    y, x = grid.y + offset[..., 0], grid.x + offset[..., 1]
    top, left = y.detach().floor(), x.detach().floor()
    below, right = y - top, x - left
    # Clamped as whole numbers: a NaN offset becomes a valid row with a NaN weight, never a wild address.
    top, left = top.to(torch.int32), left.to(torch.int32)
    rows, row_weights = _axis(top, below, grid.height)
    columns, column_weights = _axis(left, right, grid.width)
    if mask is not None:
        row_weights = [weight * mask for weight in row_weights]
    image_start = torch.arange(offset.shape[0], dtype=torch.int32, device=offset.device).view(-1, 1, 1) * rows_per_image
    starts = [row * grid.width + (grid.start + image_start) for row in rows]
    index = torch.stack([start + column for start in starts for column in columns], dim=-1)
    weight = torch.stack([row * column for row in row_weights for column in column_weights], dim=-1)
    return index, weight


def _axis(low: Tensor, fraction: Tensor, size: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The two pixels of one axis, clamped, and their weights, zero outside."""
    high = low + 1
    pixels = [torch.minimum(pixel.clamp(min=0), size - 1) for pixel in (low, high)]
    return pixels, [(1 - fraction) * (pixels[0] == low), fraction * (pixels[1] == high)]
