"""Raw convolutions and their moments, to try attention and mix with."""

from __future__ import annotations

import pytest
import torch
from dyhead_kernels.dyhead_block.attention import torch as attention
from dyhead_kernels.dyhead_block.attention.quantities import Moments
from dyhead_kernels.dyhead_block.layout import BranchLayout
from torch import Tensor

from tests.kernels.block_cases import Shapes

CHANNELS, NORM_GROUPS = 12, 4

either_form = pytest.mark.usefixtures("form")
"""With the compiled loops, and without."""


def random_maps(shapes: Shapes, batch: int = 2, mean: float = 0.0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Raw convolutions high, mid and low of unit spread."""
    positions = sum(h * w for h, w in shapes)
    coarser = positions - shapes[0][0] * shapes[0][1]
    return [(torch.randn(batch, p, CHANNELS) + mean).to(dtype) for p in (coarser, positions, coarser)]


def measured(maps: list[Tensor], layout: BranchLayout, dtype: torch.dtype) -> Moments:
    moments = Moments(*torch.full((3, 3, len(maps[0]), len(layout.shapes), CHANNELS), float("nan"), dtype=dtype))
    attention.measure(maps, layout, moments)
    return moments
