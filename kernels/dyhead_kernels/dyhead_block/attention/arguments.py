"""Arguments of the kernels of coefficients, as named tuples: the launches fill them, the kernels read their fields."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..layout import BRANCHES
from ..parameters import BlockParameters
from .quantities import COEFFICIENT_ROWS, Moments


class Sizes(NamedTuple):
    """Constants that both kernels of coefficients are compiled for."""

    channels: int
    hidden: int
    norm_groups: int
    has_conv_bias: bool


class Attention(NamedTuple):
    """Results of the attention, float32: what the mix reads and the way back needs.

    Attributes:
        coefficients: (N, L, 8, C), rows `COEFFICIENT_ROWS`.
        moments: (N, L, 3, 3, C), of high, mid and low, rows the fields of `Moments`.
        hidden: (N, L, hidden units), the dynamic ReLU's.
    """

    coefficients: Tensor
    moments: Tensor
    hidden: Tensor

    @classmethod
    def empty(cls, values: Tensor, levels: int, channels: int, hidden: int) -> Attention:
        """Allocated for as many images and on the device of `values`, and not filled."""
        return cls(
            values.new_empty(values.shape[0], levels, len(COEFFICIENT_ROWS), channels, dtype=torch.float32),
            values.new_empty(
                values.shape[0], levels, len(BRANCHES), len(Moments._fields), channels, dtype=torch.float32
            ),
            values.new_empty(values.shape[0], levels, hidden, dtype=torch.float32),
        )


class ParameterPointers(NamedTuple):
    """Parameters of a block that the attention reads, as `BlockParameters` has them."""

    norm_weight_ptr: Any
    norm_bias_ptr: Any
    conv_bias_ptr: Any
    scale_weight_ptr: Any
    scale_bias_ptr: Any
    relu_weight1_ptr: Any
    relu_bias1_ptr: Any
    relu_weight2_ptr: Any
    relu_bias2_ptr: Any

    @classmethod
    def of(cls, p: BlockParameters) -> ParameterPointers:
        """Those of a block; without a convolution's bias any pointer stands for it."""
        return cls(
            norm_weight_ptr=p.norm_weight,
            norm_bias_ptr=p.norm_bias,
            conv_bias_ptr=p.norm_bias if p.conv_bias is None else p.conv_bias,
            scale_weight_ptr=p.scale_weight,
            scale_bias_ptr=p.scale_bias,
            relu_weight1_ptr=p.relu_weight1,
            relu_bias1_ptr=p.relu_bias1,
            relu_weight2_ptr=p.relu_weight2,
            relu_bias2_ptr=p.relu_bias2,
        )
