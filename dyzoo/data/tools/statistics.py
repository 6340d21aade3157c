"""Counting what a split holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dyzoo.data.records import Sample, areas_of

SIZE_LIMITS_PX = {"small": 32, "medium": 96}
"""COCO's names for objects of an area below the square of these; the others are large."""

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)


@dataclass(frozen=True)
class SplitStatistics:
    """Numbers of one split; crowd regions count in `num_crowd` alone.

    Attributes:
        boxes_of_class, images_of_class: (K,) boxes of each class, and images that show it.
        image_sizes: (width, height) -> how many, the most frequent first.
        box_sizes: boxes that are "small", "medium" and "large" to evaluation, by the area of their label file if it has
            one.
        side_quantiles_px: quantile -> square root of the box's own area; empty without boxes.
    """

    name: str
    num_images: int
    num_boxes: int
    num_crowd: int
    num_empty: int
    boxes_of_class: tuple[int, ...]
    images_of_class: tuple[int, ...]
    image_sizes: dict[tuple[int, int], int]
    box_sizes: dict[str, int]
    side_quantiles_px: dict[float, float]


def count(name: str, samples: Sequence[Sample], num_classes: int) -> SplitStatistics:
    """The numbers of a split's images."""
    labels = [sample.labels[~sample.crowd] for sample in samples]
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(s.boxes_xyxy[~s.crowd] for s in samples)])
    sides = np.sqrt(areas_of(boxes))
    areas = np.concatenate([np.zeros(0), *(s.areas_px2[~s.crowd] for s in samples)])
    bounds = np.searchsorted(np.sort(areas), [side**2 for side in SIZE_LIMITS_PX.values()]).tolist()
    sizes = np.diff([0, *bounds, len(areas)]).tolist()
    quantiles = np.quantile(sides, QUANTILES).round(1).tolist() if len(sides) else []
    return SplitStatistics(
        name=name,
        num_images=len(samples),
        num_boxes=len(boxes),
        num_crowd=sum(int(sample.crowd.sum()) for sample in samples),
        num_empty=sum(len(each) == 0 for each in labels),
        boxes_of_class=_bincount(labels, num_classes),
        images_of_class=_bincount([np.unique(each) for each in labels], num_classes),
        image_sizes=dict(Counter((sample.width_px, sample.height_px) for sample in samples).most_common()),
        box_sizes=dict(zip([*SIZE_LIMITS_PX, "large"], sizes, strict=True)),
        side_quantiles_px=dict(zip(QUANTILES, quantiles, strict=False)),
    )


def _bincount(labels: Sequence[np.ndarray], num_classes: int) -> tuple[int, ...]:
    together = np.concatenate([np.zeros(0, np.int64), *labels])
    return tuple(np.bincount(together, minlength=num_classes).tolist())
