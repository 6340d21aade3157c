"""Costs of the operators, for `torch.utils.flop_counter.FlopCounterMode`: the products of their convolutions.

A multiplication and an addition are two operations, as in PyTorch's own formulas. Sampling, statistics and activations
are left out; PyTorch counts no such things either. A backward pass repeats the products once for what is before the
weights and once for the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from torch.utils.flop_counter import register_flop_formula

from ._ops import ops

Shape = Sequence[int]


@register_flop_formula(ops.deform_conv)
def deform_conv_flop(input: Shape, offset: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    """Count a product for each output position and weight."""
    return 2 * offset[0] * prod(offset[2:]) * prod(weight)


@register_flop_formula(ops.deform_conv_backward)
def deform_conv_backward_flop(grad_output: Shape, *arguments: Any, **_: Any) -> int:
    """Count `deform_conv_flop` for the gradient of the sampled columns, and again for that of the weight."""
    grad_input, grad_offset, grad_weight, _, grad_mask = arguments[-1]
    return (bool(grad_input or grad_offset or grad_mask) + grad_weight) * deform_conv_flop(*arguments[:3])


@register_flop_formula(ops.dyhead_block)
def dyhead_block_flop(values: Shape, offset_weight: Shape, offset_bias: Shape, *rest: Any, **_: Any) -> int:
    """Count the convolutions and, on one vector a level, the two layers of the dynamic ReLU."""
    conv_weight, relu_weight1, relu_weight2, sizes = (rest[index] for index in (0, 6, 8, 10))
    positions = [height * width for height, width in zip(sizes[::2], sizes[1::2], strict=True)]
    relu = len(positions) * (prod(relu_weight1) + prod(relu_weight2))
    return values[0] * (convolutions_flop(positions, offset_weight, conv_weight) + 2 * relu)


def convolutions_flop(positions: Sequence[int], offset_weight: Shape, conv_weight: Shape) -> int:
    """Count one image's offset convolution and three branches; `high` and `low` live on the coarser of their levels.

    Args:
        positions: H * W of every level, finest first.
        offset_weight: (27, C_in, 3, 3).
        conv_weight: (3, C, C_in, 3, 3).
    """
    convolved = sum(positions) + 2 * sum(positions[1:])
    return 2 * (sum(positions) * prod(offset_weight) + convolved * prod(conv_weight[1:]))


@register_flop_formula(ops.dyhead_block_backward)
def dyhead_block_backward_flop(grad_output: Shape, values: Shape, *arguments: Any, **_: Any) -> int:
    """Count `dyhead_block_flop` for the gradient of the pyramid, and again for those of the parameters."""
    values_needed, parameters_needed = arguments[-2:]
    return (values_needed + parameters_needed) * dyhead_block_flop(values, *arguments)
