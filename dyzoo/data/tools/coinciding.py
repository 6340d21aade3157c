"""Boxes that lie on top of each other."""

from __future__ import annotations

import numpy as np

from dyzoo.data.records import areas_of

_ROWS_AT_ONCE = 256


def coinciding(boxes_xyxy: np.ndarray, least_iou: float) -> list[tuple[int, int]]:
    """Each box that almost coincides with an earlier one: (the first such, the box itself), in order.

    The memory is that of a few hundred rows of IoUs, however many boxes there are; the time grows with the square of
    the boxes that begin at nearly the same place.

    Args:
        boxes_xyxy: (M, 4), each with an area.
        least_iou: pairs above it coincide.
    """
    order = np.argsort(boxes_xyxy[:, 0], kind="stable")
    corners = boxes_xyxy[order].astype(np.float64)
    areas = areas_of(corners)
    left = corners[:, 0]
    # The part that two boxes share is at most as wide as what the left one has beyond the left edge of the other, so
    # no box that begins further to the right can have the IoU.
    furthest = left + (1 - least_iou) * (corners[:, 2] - left)
    partners = np.full(len(corners), len(corners))
    for start in range(0, len(corners), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        columns = slice(start, int(np.searchsorted(left, furthest[rows].max(), side="right")))
        low = np.maximum(corners[rows, None, :2], corners[None, columns, :2])
        high = np.minimum(corners[rows, None, 2:], corners[None, columns, 2:])
        shared = (high - low).clip(min=0).prod(axis=2)
        iou = shared / (areas[rows, None] + areas[None, columns] - shared)
        row, column = np.nonzero(iou > least_iou)
        pairs = np.sort(np.stack([order[row + start], order[column + start]]), axis=0)
        np.minimum.at(partners, pairs[1], np.where(pairs[0] < pairs[1], pairs[0], len(corners)))
    later = np.flatnonzero(partners < len(corners))
    return list(zip(partners[later].tolist(), later.tolist(), strict=True))
