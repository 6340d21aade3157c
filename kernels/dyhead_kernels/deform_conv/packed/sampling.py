"""Where a deformable convolution reads: bilinear corners over packed rows, for one map or a whole pyramid at once.

A map is a run of rows in a packed (N, S, C) buffer, channels last, so that one corner is one row: index and weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...device_cache import DeviceCache, cached_on_device


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
        y, x: (P, K), undeformed position of each tap in pixels of its source map.
        last_y, last_x: (P, K), H - 1 and W - 1 of the source map, in the dtype of positions.
        line_rows: (P, K) int32, rows from one line of the source map to the next.
        start: (P, K) int32, packed row of the source map's first pixel.
        pixel_rows: rows from one pixel to the next, G.
    """

    y: Tensor
    x: Tensor
    last_y: Tensor
    last_x: Tensor
    line_rows: Tensor
    start: Tensor
    pixel_rows: int = 1


@cached_on_device(48)  # some MiB each for images of a thousand pixels
def sampling_grid(
    cache: DeviceCache,
    maps: tuple[OutputMap, ...],
    kernel_size: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    dtype: torch.dtype,
    offset_groups: int = 1,
) -> SamplingGrid:
    """The grid of `maps`; cached, since every block and every step asks for the same few."""
    with torch.device("cpu"):
        taps = (_cells(kernel_size) * torch.tensor(dilation) - torch.tensor(padding)).repeat(offset_groups, 1)
        group = torch.arange(offset_groups).repeat_interleave(len(taps) // offset_groups)
        parts = [torch.empty(6, 0, len(taps), dtype=torch.int64)]
        for output in maps:
            cells = _cells(output.size) * torch.tensor(output.stride)
            height, width = output.source_size
            y, x = (cells[:, None] + taps).unbind(-1)
            sizes = torch.tensor([height - 1, width - 1, width * offset_groups]).view(3, 1, 1).expand(-1, *y.shape)
            start = (output.source_start * offset_groups + group).expand_as(y)
            parts.append(torch.stack([y, x, *sizes, start]))
    y, x, last_y, last_x, line_rows, start = torch.cat(parts, dim=1)
    return SamplingGrid(
        y=cache.tensor(y.to(dtype)),
        x=cache.tensor(x.to(dtype)),
        last_y=cache.tensor(last_y.to(dtype)),
        last_x=cache.tensor(last_x.to(dtype)),
        line_rows=cache.tensor(line_rows.to(torch.int32)),
        start=cache.tensor(start.to(torch.int32)),
        pixel_rows=offset_groups,
    )


def _cells(size: Sequence[int]) -> Tensor:
    """(H * W, 2), (y, x) of every cell, row by row."""
    return torch.cartesian_prod(*(torch.arange(length) for length in size)).view(-1, 2)


class Corners:
    """The four corners that each tap blends, in the order top left, top right, bottom left, bottom right.

    With (Y0, Y1) the shares of the two lines and (X0, X1) those of the two columns, the weights are mask * Yi * Xj.
    Plain tensor code without a graph: `gradients` is its derivative, written out because it is a third of the work.

    Attributes:
        index: (N, P, K, 4) int32, packed rows, always valid ones.
        weight: (N, P, K, 4), the mask multiplied in; zero for a corner outside its map.
    """

    def __init__(self, grid: SamplingGrid, offset: Tensor, mask: Tensor | None, image_rows: int) -> None:
        """Find the corners.

        Args:
            offset: (N, P, K, 2), (dy, dx) in pixels of the source map, in the grid's dtype.
            mask: (N, P, K) or None.
            image_rows: packed rows from one image to the next.
        """
        self._mask = mask
        self._y = _Axis.of(grid.y + offset[..., 0], grid.last_y)
        self._x = _Axis.of(grid.x + offset[..., 1], grid.last_x)

        images = torch.arange(len(offset), dtype=torch.int32, device=offset.device).view(-1, 1, 1)
        start = grid.start + images * image_rows
        columns = [pixel.to(torch.int32) for pixel in self._x.pixels]
        self.index = start.new_empty(*start.shape, 4)
        self.weight = offset.new_empty(*start.shape, 4)
        index, weight = iter(self.index.unbind(-1)), iter(self.weight.unbind(-1))
        for line_pixel, line_share in zip(self._y.pixels, self._y.shares, strict=True):
            line = torch.addcmul(start, line_pixel.to(torch.int32), grid.line_rows)
            masked_share = line_share if mask is None else line_share * mask
            for column, column_share in zip(columns, self._x.shares, strict=True):
                torch.add(line, column, alpha=grid.pixel_rows, out=next(index))
                torch.mul(masked_share, column_share, out=next(weight))

    def gradients(self, grad_weight: Tensor) -> tuple[Tensor, Tensor | None]:
        """The gradient of `weight` (N, P, K, 4) -> those of `offset` (N, P, K, 2) and `mask` (N, P, K)."""
        g00, g01, g10, g11 = grad_weight.unbind(-1)
        (y0, y1), (x0, x1) = self._y.shares, self._x.shares
        grad_y0, grad_y1 = (g00 * x0).addcmul_(g01, x1), (g10 * x0).addcmul_(g11, x1)
        grad_x0, grad_x1 = (g00 * y0).addcmul_(g10, y1), (g01 * y0).addcmul_(g11, y1)
        grad_mask = None if self._mask is None else (grad_y0 * y0).addcmul_(grad_y1, y1)
        grad_y = self._y.slope(grad_y0, grad_y1)
        grad_x = self._x.slope(grad_x0, grad_x1)
        if self._mask is not None:
            grad_y, grad_x = grad_y * self._mask, grad_x * self._mask
        return torch.stack([grad_y, grad_x], dim=-1), grad_mask


class _Axis(NamedTuple):
    """One axis of the sampling positions: the pixels before and after, all (N, P, K) in the dtype of positions.

    Attributes:
        pixels: their coordinates, clamped into the map.
        inside: 1 where a pixel did not need that, else 0.
        shares: bilinear shares, zero outside the map; NaN where the position is.
    """

    pixels: tuple[Tensor, Tensor]
    inside: tuple[Tensor, Tensor]
    shares: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, position: Tensor, last: Tensor) -> _Axis:
        low = position.floor().nan_to_num_(nan=-2.0)  # a NaN must not become an address: it lies off the map
        fraction = position.sub_(low)
        high = low + 1
        pixels = [torch.minimum(corner.clamp(min=0), last) for corner in (low, high)]
        inside = [torch.eq(p, c, out=torch.empty_like(p)) for p, c in zip(pixels, (low, high), strict=True)]
        return cls(
            (pixels[0], pixels[1]), (inside[0], inside[1]), ((1 - fraction).mul_(inside[0]), fraction.mul_(inside[1]))
        )

    def slope(self, grad_low: Tensor, grad_high: Tensor) -> Tensor:
        """Gradients of the two shares -> that of the position: one share falls as the other rises."""
        return (grad_high * self.inside[1]).addcmul_(grad_low, self.inside[0], value=-1)
