"""Detections compared with golden ones."""

from __future__ import annotations

from torch import Tensor
from torchvision.ops import box_iou

SCORE_TOLERANCE = 2e-3
MIN_AGREEMENT = 0.98  # a pair of boxes at the very edge of the NMS threshold may fall either way


def agreement(golden: dict[str, Tensor], found: dict[str, Tensor]) -> float:
    """Share of the golden detections that `found` has, and the other way round: the smaller of the two."""
    same = box_iou(golden["dets.boxes"], found["boxes"]) > 0.95
    same &= golden["dets.labels"][:, None] == found["labels"]
    same &= (golden["dets.scores"][:, None] - found["scores"]).abs() < SCORE_TOLERANCE
    return min(same.any(dim=dim).float().mean().item() for dim in (0, 1))
