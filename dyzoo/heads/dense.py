"""What dense heads share: the layout of their predictions and the way from candidates to detections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from dyzoo.heads.base import Detected


def flatten_levels(maps: Sequence[Tensor]) -> Tensor:
    """Pack the maps (N, C, H, W) of L levels into (N, S, C) float32, positions in row-major order, finest first."""
    return torch.cat([level.permute(0, 2, 3, 1).flatten(1, 2) for level in maps], dim=1).float()


def strongest_per_level(ranks: Tensor, level_sizes: Sequence[int], count: int) -> Tensor:
    """The `count` highest-ranking (position, class) pairs of every level.

    Args:
        ranks: (N, S, K), S the sum of `level_sizes`.
        level_sizes: positions of each level.
        count: per level and image; a smaller level gives all its pairs.

    Returns:
        (N, T) int64 indices into the flat S * K pairs, in no particular order.
    """
    chosen, start = [], 0
    for level in ranks.split(list(level_sizes), dim=1):
        pairs = level.flatten(1)
        chosen.append(start + pairs.topk(min(count, pairs.shape[1]), dim=1, sorted=False).indices)
        start += pairs.shape[1]
    return torch.cat(chosen, dim=1)


def suppress(
    boxes_xyxy: Tensor,
    scores: Tensor,
    labels: Tensor,
    image_size: tuple[int, int],
    *,
    clip_before_nms: bool,
    nms_threshold: float,
    max_detections: int,
) -> Detected:
    """The candidates of one image -> its detections: per-class NMS, the best `max_detections`, clipped to the image.

    Boxes that are empty once clipped (those in the padding, for one) are dropped.

    Args:
        boxes_xyxy, scores, labels: (M, 4), (M,), (M,).
        image_size: (H, W) in pixels.
        clip_before_nms: overlaps are measured inside the image (mmdetection) or on the full boxes (detectron2).
        nms_threshold: of two boxes of a class with a higher IoU, the one of the lower score goes.
        max_detections: per image.

    Returns:
        Detections, highest score first.
    """
    if clip_before_nms:
        boxes_xyxy, scores, labels = _clip(boxes_xyxy, scores, labels, image_size)
    kept = batched_nms(boxes_xyxy, scores, labels, nms_threshold)[:max_detections]
    boxes_xyxy, scores, labels = _clip(boxes_xyxy[kept], scores[kept], labels[kept], image_size)
    return {"boxes": boxes_xyxy, "scores": scores, "labels": labels}


def _clip(
    boxes_xyxy: Tensor, scores: Tensor, labels: Tensor, image_size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    clipped = clip_boxes_to_image(boxes_xyxy, image_size)
    present = (clipped[:, 2:] > clipped[:, :2]).all(dim=1)
    return clipped[present], scores[present], labels[present]
