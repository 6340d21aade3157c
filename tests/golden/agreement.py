"""Maps and detections compared with golden ones."""

from __future__ import annotations

from torch import Tensor
from torchvision.ops import box_iou

SCORE_TOLERANCE = 2e-3
MAP_TOLERANCE = 1e-3  # of a level's largest value; another order of operations is at 1e-5, a wrong convention at 1e-1
MIN_AGREEMENT = 0.98  # a pair of boxes at the very edge of the NMS threshold may fall either way


def deviation(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


def agreement(golden: dict[str, Tensor], found: dict[str, Tensor]) -> float:
    """Share of the golden detections that `found` has, and the other way round: the smaller of the two."""
    same = box_iou(golden["dets.boxes"], found["boxes"]) > 0.95
    same &= golden["dets.labels"][:, None] == found["labels"]
    same &= (golden["dets.scores"][:, None] - found["scores"]).abs() < SCORE_TOLERANCE
    return min(same.any(dim=dim).float().mean().item() for dim in (0, 1))
