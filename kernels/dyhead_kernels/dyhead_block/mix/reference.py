"""The mix of a level's branches, map by map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention.reference import dynamic_relu, scale_attention
from ..parameters import BlockParameters


def upsample(high: Tensor, size: tuple[int, int]) -> Tensor:
    """The high branch's map (N, C, h, w) on the grid of its level, `size` (H, W): bilinear with aligned corners."""
    return F.interpolate(high, size, mode="bilinear", align_corners=True)


def mix(maps: Sequence[Tensor], parameters: BlockParameters) -> Tensor:
    """The mean of the branches' maps (N, C, H, W), each times its scale attention, through the dynamic ReLU."""
    mixed = torch.stack([scale_attention(m, parameters) * m for m in maps]).mean(dim=0)
    return dynamic_relu(mixed, parameters)
