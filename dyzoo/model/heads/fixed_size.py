"""Suppression as one operator, with outputs of sizes that do not depend on values: what graphs need."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dyzoo.model.heads.dense import Candidates, suppress_batch

NO_LABEL = -1


class FixedDetections(NamedTuple):
    """Detections of N images in K places each, best first; places that nothing was found for come last."""

    boxes_xyxy: Tensor  # (N, K, 4) float32 pixels inside the image, else 0
    scores: Tensor  # (N, K) float32, else 0
    labels: Tensor  # (N, K) int64, else -1
    counts: Tensor  # (N,) int64, places taken


@torch.library.custom_op("dyzoo::suppress", mutates_args=())
def suppress_to_fixed_size(
    boxes_xyxy: Tensor,
    scores: Tensor,
    labels: Tensor,
    present: Tensor,
    image_sizes: Tensor,
    clip_before_nms: bool,
    nms_threshold: float,
    max_detections: int,
    inclusive_corners: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The candidates of every image -> `FixedDetections` of `max_detections` places; see `dense.suppress`.

    Args:
        boxes_xyxy, scores, labels, present: `dense.Candidates`, (N, T, 4) and (N, T).
        image_sizes: (N, 2) int64, see `base.ImageSizes`.
        clip_before_nms, nms_threshold, max_detections, inclusive_corners: see `dense.suppress`.
    """
    detections = suppress_batch(
        Candidates(boxes_xyxy, scores, labels, present),
        [(height, width) for height, width in image_sizes.tolist()],
        inclusive_corners=inclusive_corners,
        clip_before_nms=clip_before_nms,
        nms_threshold=nms_threshold,
        max_detections=max_detections,
    )
    boxes, best, classes, counts = _places(boxes_xyxy, scores, labels, max_detections)
    for empty, value in ((boxes, 0), (best, 0), (classes, NO_LABEL)):
        empty.fill_(value)
    for image, found in enumerate(detections):
        count = len(found["scores"])
        boxes[image, :count] = found["boxes"]
        best[image, :count] = found["scores"]
        classes[image, :count] = found["labels"]
        counts[image] = count
    return boxes, best, classes, counts


@suppress_to_fixed_size.register_fake
def _(boxes_xyxy: Tensor, scores: Tensor, labels: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _, _, _, _, max_detections, *_ = rest
    return _places(boxes_xyxy, scores, labels, max_detections)


def _places(boxes_xyxy: Tensor, scores: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Memory for `FixedDetections`, not filled."""
    images = boxes_xyxy.shape[0]
    return (
        boxes_xyxy.new_empty(images, count, 4),
        scores.new_empty(images, count),
        labels.new_empty(images, count),
        labels.new_empty(images),
    )
