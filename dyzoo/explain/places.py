"""Positions of levels and pixels of the network's input, and the sampling points between them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dyzoo.explain.parts import Branch, Explained

TAPS = tuple((row, column) for row in (-1, 0, 1) for column in (-1, 0, 1))
"""(row, column) of each of the nine taps, counted from the middle one, in the order of offsets and masks."""


class Point(NamedTuple):
    """One sampling point of a branch."""

    branch: Branch
    tap: tuple[int, int]  # one of `TAPS`
    sources: tuple[int, ...]  # the levels that are sampled there
    grid_px: tuple[float, float]  # (x, y) of the tap without its offset
    place_px: tuple[float, float]  # (x, y) that is sampled
    mask: float


def position_at(
    place: tuple[float, float], cell_px: tuple[float, float], center_offset: float, size: tuple[int, int]
) -> tuple[int, int]:
    """(row, column) of a level of that (H, W) that is the nearest to a place (x, y) in pixels."""
    x, y = place
    row, column = (
        min(max(round(px / cell - center_offset), 0), count - 1)
        for px, cell, count in zip((y, x), cell_px, size, strict=True)
    )
    return row, column


def sampling_points(explanation: Explained, block: int, level: int) -> list[Point]:
    """Where the branches of a block and level sample for the explanation's place, nine points each.

    The branch "high" of the pyramid form is upsampled after its convolution: the points are those of the
    convolution's position that counts the most for this one. In the tensor form the branches have the same points.
    """
    points = []
    levels, center = explanation.blocks[block], explanation.center_offset
    own = levels[level]
    position = position_at(explanation.place, own.cell_px, center, own.size)
    for name, branch in own.branches.items():
        sources = tuple(branch.weights)
        height_px, width_px = levels[sources[0]].cell_px  # the same for all sources
        grid = branch.masks.shape[1:]
        row, column = (
            index if count == large else round(index * (count - 1) / max(large - 1, 1))
            for index, count, large in zip(position, grid, own.size, strict=True)
        )
        for tap, offset, mask in zip(
            TAPS, branch.offsets[:, :, row, column].tolist(), branch.masks[:, row, column].tolist(), strict=True
        ):
            y, x = row * branch.stride + tap[0], column * branch.stride + tap[1]
            grid_px = ((x + center) * width_px, (y + center) * height_px)
            place_px = (grid_px[0] + offset[1] * width_px, grid_px[1] + offset[0] * height_px)
            points.append(Point(name, tap, sources, grid_px, place_px, mask))
    return points


def over_picture(
    values: np.ndarray,
    cell_px: tuple[float, float],
    center_offset: float,
    size: tuple[int, int],
    shown: tuple[int, int],
) -> np.ndarray:
    """A level's map (H, W) over a picture of `size` (h, w) pixels that is shown at another size: blended linearly.

    `cell_px` is the height and width of a position in pixels of that size. Beyond the outer positions,
    values go on as they are.
    """
    found = values.astype(np.float32)
    for axis in (0, 1):
        pixels = (np.arange(shown[axis]) + 0.5) * size[axis] / shown[axis]
        index = (pixels / cell_px[axis] - center_offset).clip(0, values.shape[axis] - 1)
        low = index.astype(np.int64)
        high = np.minimum(low + 1, values.shape[axis] - 1)
        share = (index - low).astype(np.float32)
        share = share[:, None] if axis == 0 else share
        found = found.take(low, axis) * (1 - share) + found.take(high, axis) * share
    return found
