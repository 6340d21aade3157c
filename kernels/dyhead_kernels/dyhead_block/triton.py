"""One DyHead block as Triton kernels: offset convolution, grouped deformable convolution, coefficients, mixing."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..deform_conv.packed import triton as conv
from ..deform_conv.packed.triton import Convolution, Operands
from . import _block_launches as block
from .layout import BRANCHES, Layout
from .parameters import BlockParameters, OffsetMode
from .tables import BlockTables, block_tables


class State(NamedTuple):
    """What the backward pass needs besides the inputs.

    Attributes:
        steering: (N, size) float32, offsets and masks, see `BlockTables`.
        convolved: (rows, C), the raw convolutions of all branches, in the dtype of the matrix product.
        coefficients: (N, L, 8, C) float32, moments: (N, L, 3, 3, C), hidden: (N, L, hidden), see `block.Coefficients`.
    """

    steering: Tensor
    convolved: Tensor
    coefficients: Tensor
    moments: Tensor
    hidden: Tensor


def state_like(
    values: Tensor, parameters: BlockParameters, layout: Layout, offset_mode: OffsetMode, norm_groups: int
) -> tuple[Tensor, ...]:
    """The output (N, S, C) and the tensors of `State`, allocated and not filled."""
    images, positions, _ = values.shape
    plan, levels = BlockTables(layout, offset_mode), len(layout.shapes)  # sizes may be symbols: not cached
    channels, hidden = parameters.conv_weight.shape[1], len(parameters.relu_bias1)
    state = State(
        values.new_empty(images, plan.steering_size, dtype=torch.float32),
        values.new_empty(images * plan.rows, channels),
        values.new_empty(images, levels, 8, channels, dtype=torch.float32),
        values.new_empty(images, levels, len(BRANCHES), 3, channels, dtype=torch.float32),
        values.new_empty(images, levels, hidden, dtype=torch.float32),
    )
    return values.new_empty(images, positions, channels), *state


def forward(
    values: Tensor, parameters: BlockParameters, layout: Layout, offset_mode: OffsetMode, norm_groups: int
) -> tuple[Tensor, list[Tensor]]:
    """The output (N, S, C) and the tensors of `State`.

    Args:
        values: (N, S, C_in), in the dtype of the matrix product, like `parameters.conv_weight`.
    """
    values, parameters = values.contiguous(), _contiguous(parameters)
    plan = block_tables(layout, offset_mode)
    channels = parameters.conv_weight.shape[1]
    steering = block.steer(plan, values, parameters)
    convolved = values.new_empty(len(values) * plan.rows, channels)
    operands = _operands(plan, values, steering, parameters)
    convolution = _convolution(values, parameters)
    partial = conv.forward(convolution, operands, None, convolved, plan.shares(values.device))
    coefficients = block.fold(plan, partial, conv.forward_tables(convolution, operands), parameters, norm_groups)
    output = values.new_empty(*values.shape[:2], channels)
    block.mix(plan, convolved, coefficients, output)
    return output, [steering, convolved, *coefficients]


def backward(
    grad_output: Tensor,
    values: Tensor,
    parameters: BlockParameters,
    layout: Layout,
    offset_mode: OffsetMode,
    norm_groups: int,
    state: list[Tensor],
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Gradients of `values` and of each parameter, each in its tensor's dtype.

    The gradient of the values is a sum of float atomics, whose order varies, unless PyTorch's deterministic algorithms
    are on: then it is counted in 64-bit integers. All other sums have a fixed order.

    Args:
        needs: whether the gradient of `values` is wanted, and whether any parameter's is.
    """
    values_needed, parameters_needed = needs
    values, parameters = values.contiguous(), _contiguous(parameters)
    steering, convolved, *folded = State(*state)
    plan, coefficients = block_tables(layout, offset_mode), block.Coefficients(*folded)
    convolution, operands = _convolution(values, parameters), _operands(plan, values, steering, parameters)

    grad_output = grad_output.to(values.dtype).contiguous()
    grad_mixed, sums, level_tables = block.mix_backward(plan, grad_output, convolved, coefficients)
    grad_moments, grads = block.fold_backward(
        plan, sums, level_tables, conv.forward_tables(convolution, operands), coefficients, parameters, norm_groups
    )
    grad_convolved = block.convolved_backward(plan, grad_mixed, convolved, coefficients, grad_moments)
    del grad_mixed, sums

    grad_branches = steering.new_empty(len(values), plan.branch_steering_size)
    total = conv.ValuesGradient.like(convolution, operands, grad_convolved, True) if values_needed else None
    conv.backward(convolution, operands, grad_convolved, total, grad_branches, grad_branches)
    if parameters_needed:
        grad_weight = conv.weight_backward(convolution, operands, grad_convolved)
        grads["conv_weight"] = grad_weight.transpose(2, 3).reshape(parameters.conv_weight.shape)
    del grad_convolved

    grad_steering = block.steer_backward(plan, grad_branches, steering)
    if parameters_needed:
        grads["offset_weight"], grads["offset_bias"] = block.steer_weight_backward(plan, grad_steering, values)
    grad_values = None
    if total is not None:
        grad_values = block.steer_values_backward(plan, grad_steering, values, parameters.offset_weight, total.total())
    wanted = ((field.name, getattr(parameters, field.name)) for field in fields(BlockParameters))
    return grad_values, [
        grads[name].to(tensor.dtype) if parameters_needed and tensor is not None else None for name, tensor in wanted
    ]


def _contiguous(parameters: BlockParameters) -> BlockParameters:
    """All but the convolutions' weights, which are rearranged anyway."""
    kept = ("offset_weight", "conv_weight")
    others = {name: tensor for name, tensor in vars(parameters).items() if name not in kept and tensor is not None}
    return replace(parameters, **{name: tensor.contiguous() for name, tensor in others.items()})


def _convolution(values: Tensor, parameters: BlockParameters) -> Convolution:
    return Convolution(in_channels=values.shape[2], out_channels=parameters.conv_weight.shape[1])


def _operands(plan: BlockTables, values: Tensor, steering: Tensor, parameters: BlockParameters) -> Operands:
    weight = parameters.conv_weight.permute(0, 1, 3, 4, 2).flatten(2, 3).contiguous()
    return Operands(values, steering, steering, weight, plan.segments)
