"""One DyHead block as Triton kernels: offsets, deform_conv of all branches and levels at once, attention, mix."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..deform_conv.packed import triton as deform_conv
from ..deform_conv.packed.triton import Convolution, Operands
from ..device_cache import DeviceCache
from .attention import triton as attention
from .attention.arguments import Attention
from .layout import BranchLayout
from .mix import triton as mix
from .offsets import triton as offsets
from .parameters import BlockParameters, OffsetMode
from .tables import BlockTables, block_tables


class State(NamedTuple):
    """Tensors that the backward pass needs besides the inputs.

    Attributes:
        offset_mask: (N, size) float32, offsets and masks, see `BlockTables`.
        convolved: (rows, C), the raw convolutions of all branches, in the dtype of the matrix product.
        coefficients: (N, L, 8, C) float32, moments: (N, L, 3, 3, C), hidden: (N, L, hidden), see `Attention`.
    """

    offset_mask: Tensor
    convolved: Tensor
    coefficients: Tensor
    moments: Tensor
    hidden: Tensor


def state_like(
    values: Tensor, parameters: BlockParameters, layout: BranchLayout, offset_mode: OffsetMode, norm_groups: int
) -> tuple[Tensor, ...]:
    """The output (N, S, C) and the tensors of `State`, allocated and not filled."""
    images, positions, _ = values.shape
    levels = len(layout.shapes)
    plan = BlockTables(layout, offset_mode, DeviceCache(values.device))  # sizes may be symbols: not kept
    channels, hidden = parameters.conv_weight.shape[1], len(parameters.relu_bias1)
    state = State(
        values.new_empty(images, plan.offset_mask_size, dtype=torch.float32),
        values.new_empty(images * plan.rows, channels),
        *Attention.empty(values, levels, channels, hidden),
    )
    return values.new_empty(images, positions, channels), *state


def forward(
    values: Tensor, parameters: BlockParameters, layout: BranchLayout, offset_mode: OffsetMode, norm_groups: int
) -> tuple[Tensor, list[Tensor]]:
    """The output (N, S, C) and the tensors of `State`.

    Args:
        values: (N, S, C_in), in the dtype of the matrix product, like `parameters.conv_weight`.
    """
    values, parameters = values.contiguous(), _contiguous(parameters)
    plan = block_tables(values.device, layout, offset_mode)
    channels = parameters.conv_weight.shape[1]
    offset_mask = offsets.forward(plan, values, parameters)
    convolved = values.new_empty(len(values) * plan.rows, channels)
    operands = _operands(plan, values, offset_mask, parameters)
    convolution = _convolution(values, parameters)
    partial = deform_conv.forward(convolution, operands, None, convolved, plan.mean_weights())
    strips = deform_conv.forward_strips(convolution, operands)
    attended = attention.forward(plan, partial, strips, parameters, norm_groups)
    output = values.new_empty(*values.shape[:2], channels)
    mix.forward(plan, convolved, attended, output)
    return output, [offset_mask, convolved, *attended]


def backward(
    grad_output: Tensor,
    values: Tensor,
    parameters: BlockParameters,
    layout: BranchLayout,
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
    offset_mask, convolved, *rest = State(*state)
    plan, attended = block_tables(values.device, layout, offset_mode), Attention(*rest)
    convolution, operands = _convolution(values, parameters), _operands(plan, values, offset_mask, parameters)
    strips = deform_conv.forward_strips(convolution, operands)

    grad_output = grad_output.to(values.dtype).contiguous()
    grad_mixed, sums, level_tables = mix.backward(plan, grad_output, convolved, attended)
    grad_moments, grads = attention.backward(plan, sums, level_tables, strips, attended, parameters, norm_groups)
    grad_convolved = mix.branches_backward(plan, grad_mixed, convolved, attended, grad_moments)
    del grad_mixed, sums

    grad_branches = offset_mask.new_empty(len(values), plan.branch_offset_mask_size)
    total = deform_conv.ValuesGradient.like(convolution, operands, grad_convolved, True) if values_needed else None
    deform_conv.backward(convolution, operands, grad_convolved, total, grad_branches, grad_branches)
    if parameters_needed:
        grad_weight = deform_conv.weight_backward(convolution, operands, grad_convolved)
        grads["conv_weight"] = grad_weight.transpose(2, 3).reshape(parameters.conv_weight.shape)
    del grad_convolved

    grad_logits, tile_sums = offsets.backward(plan, grad_branches, offset_mask)
    if parameters_needed:
        grads["offset_weight"] = offsets.weight_backward(plan, grad_logits, values)
        grads["offset_bias"] = tile_sums.sum(dim=(0, 1))
    grad_values = None
    if total is not None:
        grad_values = offsets.values_backward(plan, grad_logits, values, parameters.offset_weight, total.total())
    wanted = ((field.name, getattr(parameters, field.name)) for field in fields(BlockParameters))
    return grad_values, [
        grads[name].to(tensor.dtype) if parameters_needed and tensor is not None else None for name, tensor in wanted
    ]


def _contiguous(parameters: BlockParameters) -> BlockParameters:
    """Parameters contiguous in memory, but for the convolutions' weights, which are rearranged anyway."""
    kept = ("offset_weight", "conv_weight")
    others = {name: tensor for name, tensor in vars(parameters).items() if name not in kept and tensor is not None}
    return replace(parameters, **{name: tensor.contiguous() for name, tensor in others.items()})


def _convolution(values: Tensor, parameters: BlockParameters) -> Convolution:
    return Convolution(in_channels=values.shape[2], out_channels=parameters.conv_weight.shape[1])


def _operands(plan: BlockTables, values: Tensor, offset_mask: Tensor, parameters: BlockParameters) -> Operands:
    weight = parameters.conv_weight.permute(0, 1, 3, 4, 2).flatten(2, 3).contiguous()
    return Operands(values, offset_mask, offset_mask, weight, plan.segments)
