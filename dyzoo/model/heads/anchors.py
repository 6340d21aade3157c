"""Anchors on the grid of a feature level, and those that are nearest to a point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AnchorGrid:
    """The same A anchors at every position of a level, positions in row-major order, a position's anchors together.

    Their order within a position is detectron2's: scales outside, ratios inside. Sides are not rounded.

    Attributes:
        height, width: of the level, in positions.
        stride_px: distance between neighbouring positions.
        side_px: square root of the smallest anchors' area.
        center_offset: place of the first position, in units of the stride.
        octave_scales: scales in an octave; scale i is `2 ** (i / octave_scales)` times `side_px`.
        aspect_ratios: height over width, each with the area of its scale.
    """

    height: int
    width: int
    stride_px: int
    side_px: float
    center_offset: float
    octave_scales: int = 1
    aspect_ratios: tuple[float, ...] = (1.0,)

    def __len__(self) -> int:
        return self.number

    @property
    def number(self) -> int:
        """Number of anchors, as `len` has it, which Python wants as a plain number where a traced graph has none."""
        return self.height * self.width * self.anchors_per_position

    @property
    def anchors_per_position(self) -> int:
        """A."""
        return self.octave_scales * len(self.aspect_ratios)

    def axes(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Pixel coordinates of the positions: x of every column (W,), y of every row (H,), float32."""
        columns, rows = (
            torch.arange(size, dtype=torch.float32, device=device).add(self.center_offset).mul(self.stride_px)
            for size in (self.width, self.height)
        )
        return columns, rows

    def boxes(self, device: torch.device) -> Tensor:
        """(H * W * A, 4) float32 xyxy in pixels; they may reach outside the image."""
        columns, rows = self.axes(device)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        half_width, half_height = self._half_sizes(device)
        y, x = y[..., None], x[..., None]
        return torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], dim=-1).flatten(0, 2)

    def _half_sizes(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Half the width (A,) and half the height (A,) of the anchors of a position."""
        halves = []
        for index in range(self.octave_scales):
            side = self.side_px * 2 ** (index / self.octave_scales)
            for ratio in self.aspect_ratios:
                width = math.sqrt(side**2 / ratio)
                halves.append((width / 2, ratio * width / 2))
        half_width, half_height = torch.tensor(halves, dtype=torch.float32, device=device).unbind(1)
        return half_width, half_height


def anchor_grids(
    maps: Sequence[Tensor],
    strides_px: Sequence[int],
    *,
    scale: float,
    center_offset: float,
    octave_scales: int = 1,
    aspect_ratios: tuple[float, ...] = (1.0,),
) -> list[AnchorGrid]:
    """The anchors of L maps (N, C, H, W); the smallest of a level have `scale` times its stride as their side."""
    return [
        AnchorGrid(
            height=level.shape[2],
            width=level.shape[3],
            stride_px=stride_px,
            side_px=scale * stride_px,
            center_offset=center_offset,
            octave_scales=octave_scales,
            aspect_ratios=aspect_ratios,
        )
        for level, stride_px in zip(maps, strides_px, strict=True)
    ]


def all_boxes(grids: Sequence[AnchorGrid], device: torch.device) -> Tensor:
    """(S, 4) float32 xyxy anchors of all levels, finest first."""
    return torch.cat([grid.boxes(device) for grid in grids])


def nearest_positions(points_xy: Tensor, grid: AnchorGrid, count: int) -> Tensor:
    """The positions of a grid whose centres are nearest to each point, the nearest first.

    The k nearest of a grid lie among its k nearest columns and k nearest rows, so only k * k positions are
    compared. Of equal distances the nearer row comes first, then the lower index: the same on every device.

    Args:
        points_xy: (M, 2) pixels.
        grid: a level with H * W positions.
        count: k.

    Returns:
        (M, min(k, H * W)) int64 row-major positions.
    """
    x, y = grid.axes(points_xy.device)
    x_distances, columns = nearest(points_xy[:, 0], x, count)
    y_distances, rows = nearest(points_xy[:, 1], y, count)
    squared_distances = y_distances[:, :, None] ** 2 + x_distances[:, None] ** 2
    positions = rows[:, :, None] * grid.width + columns[:, None]
    order = squared_distances.flatten(1).argsort(stable=True)[:, :count]
    return positions.flatten(1).gather(1, order)


def nearest(coordinates: Tensor, axis: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The places of an axis (W,) nearest to M coordinates: distances and indices, (M, min(count, W)), nearest first."""
    distances, indices = (coordinates[:, None] - axis).abs().sort(stable=True)
    return distances[:, :count], indices[:, :count]
