"""The form in which models of transformers give and take boxes: centre and size, in shares of the picture."""

from __future__ import annotations

import torch
from torch import Tensor


def to_shares(boxes_xyxy: Tensor, size: Tensor) -> Tensor:
    """Corners (..., 4) in pixels -> centre and size (..., 4) in shares of a picture of `size` (H, W).

    In float64, so that the pixels come back with the same bits in float32.
    """
    boxes, scale = _precise(boxes_xyxy, size)
    start, end = (boxes / scale).split(2, dim=-1)
    return torch.cat([(start + end) / 2, end - start], dim=-1)


def from_shares(boxes_cxcywh: Tensor, size: Tensor) -> Tensor:
    """The inverse of `to_shares`: corners (..., 4) in pixels."""
    boxes, scale = _precise(boxes_cxcywh, size)
    center, side = boxes.split(2, dim=-1)
    return torch.cat([center - side / 2, center + side / 2], dim=-1) * scale


def _precise(boxes: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes and (W, H, W, H) in the most precise type of the device: Apple's GPUs have no float64."""
    dtype = torch.float32 if boxes.device.type == "mps" else torch.float64
    return boxes.to(dtype), size.to(boxes.device, dtype).flip(-1).repeat(2)
