"""Parameters that one DyHead block has learnt, and how its `high` branch reads an oversize offset map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

OffsetMode = Literal["flat", "crop", "resize"]

TAPS = 9
"""Taps of the block's 3x3 kernels."""

OFFSETS, OFFSETS_AND_MASKS = 2 * TAPS, 3 * TAPS
"""Channels of the offset convolution: pairs (dy, dx) of every tap, and these with a mask of every tap."""


@dataclass(frozen=True, eq=False)
class BlockParameters:
    """The tensors of one block, C_in -> C channels, the three branches stacked in the order high, mid, low.

    Attributes:
        offset_weight: (27, C_in, 3, 3), 9 interleaved (dy, dx) pairs, then 9 mask logits.
        offset_bias: (27,).
        conv_weight: (3, C, C_in, 3, 3), deformable convolutions.
        conv_bias: (3, C) or None.
        norm_weight, norm_bias: (3, C), affine part of the GroupNorms.
        scale_weight: (C,), scale_bias: (1,), the 1x1 convolution of the scale attention.
        relu_weight1: (C / 4, C), relu_bias1: (C / 4,), first layer of the dynamic ReLU (any hidden width works).
        relu_weight2: (4 * C, C / 4), relu_bias2: (4 * C,), second layer, rows in the order a1, b1, a2, b2.
    """

    offset_weight: Tensor
    offset_bias: Tensor
    conv_weight: Tensor
    conv_bias: Tensor | None
    norm_weight: Tensor
    norm_bias: Tensor
    scale_weight: Tensor
    scale_bias: Tensor
    relu_weight1: Tensor
    relu_bias1: Tensor
    relu_weight2: Tensor
    relu_bias2: Tensor


def parameter_shapes(in_channels: int, channels: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """The shape of every field of `BlockParameters`, C_in -> C channels; `hidden`: width of the dynamic ReLU."""
    return {
        "offset_weight": (OFFSETS_AND_MASKS, in_channels, 3, 3),
        "offset_bias": (OFFSETS_AND_MASKS,),
        "conv_weight": (3, channels, in_channels, 3, 3),
        "conv_bias": (3, channels),
        "norm_weight": (3, channels),
        "norm_bias": (3, channels),
        "scale_weight": (channels,),
        "scale_bias": (1,),
        "relu_weight1": (hidden, channels),
        "relu_bias1": (hidden,),
        "relu_weight2": (4 * channels, hidden),
        "relu_bias2": (4 * channels,),
    }
