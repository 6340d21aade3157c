"""Losses of the dense heads, summed; each head divides by its own normaliser."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

BACKGROUND = -1  # the label of a position that no object is assigned to
IGNORED = -2  # the label of one that is neither object nor background: losses are taken on the others


def focal_loss(logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
    """Sigmoid focal loss (Lin et al., ICCV 2017) against one label per position, summed to a scalar.

    Args:
        logits: (..., K).
        labels: (...) int64 class indices, or `BACKGROUND` for "none of the K".
        alpha: weight of the positive class; 1 - alpha is that of the negatives.
        gamma: exponent that fades out what is classified well.
    """
    classes = torch.arange(logits.shape[-1], device=logits.device)
    targets = (labels[..., None] == classes).to(logits.dtype)
    return sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=gamma, reduction="sum")


def giou_loss(boxes_xyxy: Tensor, targets_xyxy: Tensor, weights: Tensor) -> Tensor:
    """1 - GIoU (Rezatofighi et al., CVPR 2019) of (M, 4) paired boxes, weighted by (M,) and summed to a scalar."""
    return (generalized_box_iou_loss(boxes_xyxy, targets_xyxy) * weights).sum()
