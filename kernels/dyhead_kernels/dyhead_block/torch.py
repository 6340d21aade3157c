"""One DyHead block in plain PyTorch, fast on CPUs: offsets, deform_conv over all levels of a branch, attention, mix."""

from __future__ import annotations

from dataclasses import fields
from typing import NamedTuple, cast

import torch
from torch import Tensor

from ..deform_conv.packed import torch as deform_conv
from ..precision import sampling_dtype
from .attention import torch as attention
from .attention.quantities import Moments
from .layout import BRANCHES, BranchLayout
from .mix import torch as mix
from .offsets import torch as offsets
from .parameters import BlockParameters, OffsetMode


class State(NamedTuple):
    """Tensors that the backward pass needs besides the inputs.

    Attributes:
        offset_mask: (N, S, 27), 9 pairs (dy, dx) and 9 masks, the sigmoid applied, in the dtype of sampling.
        high, mid, low: (N, S_i, C), the raw convolutions, packed as in `BranchLayout`, in the matrix product's dtype.
        moments: (3, 3, N, L, C), mean, variance and mean_change of `attention.quantities.Moments`.
    """

    offset_mask: Tensor
    high: Tensor
    mid: Tensor
    low: Tensor
    moments: Tensor


def state_like(
    values: Tensor, parameters: BlockParameters, layout: BranchLayout, offset_mode: OffsetMode, norm_groups: int
) -> tuple[Tensor, ...]:
    """The output (N, S, C) and the tensors of `State`, allocated and not filled."""
    batch, positions, _ = values.shape
    weight = parameters.conv_weight
    channels, dtype = weight.shape[1], sampling_dtype(values, weight)
    coarser = positions - layout.starts[1]
    state = State(
        offset_mask=values.new_empty(batch, positions, len(parameters.offset_bias), dtype=dtype),
        high=weight.new_empty(batch, coarser, channels),
        mid=weight.new_empty(batch, positions, channels),
        low=weight.new_empty(batch, coarser, channels),
        moments=values.new_empty(3, len(BRANCHES), batch, len(layout.shapes), channels, dtype=dtype),
    )
    return weight.new_empty(batch, positions, channels), *state


def forward(
    values: Tensor, parameters: BlockParameters, layout: BranchLayout, offset_mode: OffsetMode, norm_groups: int
) -> tuple[Tensor, list[Tensor]]:
    """The output (N, S, C) and the tensors of `State`.

    Args:
        values: (N, S, C_in), of any dtype.
        parameters: `conv_weight` in the dtype of the matrix product, which is the output's; the others in any.
    """
    output, *allocated = state_like(values, parameters, layout, offset_mode, norm_groups)
    state = State(*allocated)
    rows = _rows(values, parameters.conv_weight)
    offsets.forward(rows, parameters, layout, state.offset_mask)
    convolved = (state.high, state.mid, state.low)
    for branch, samples in enumerate(offsets.branch_samples(rows, state.offset_mask, layout, offset_mode)):
        deform_conv.forward(samples, _matrix(parameters.conv_weight[branch]), convolved[branch])
    del rows, samples  # not needed any more, and as large as the maps to come
    moments = Moments(*state.moments.unbind())
    attention.measure(convolved, layout, moments)
    coefficients = attention.forward(moments, parameters, layout, norm_groups)
    mix.forward(convolved, moments, coefficients, layout, output)
    return output, list(state)


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

    Args:
        needs: whether the gradient of `values` is wanted, and whether any parameter's is.
    """
    values_needed, parameters_needed = needs
    offset_mask, *convolved, packed_moments = State(*state)
    moments = Moments(*packed_moments.unbind())
    coefficients = attention.forward(moments, parameters, layout, norm_groups)
    grad_scaled, grad_coefficients = mix.backward(grad_output, convolved, moments, coefficients, layout)
    grad_moments, grads = attention.backward(moments, parameters, layout, norm_groups, grad_coefficients)
    grad_convolved = mix.branches_backward(grad_scaled, convolved, moments, coefficients, grad_moments, layout)
    del grad_scaled

    maps = values.to(offset_mask.dtype).contiguous()
    grad_maps = torch.zeros_like(maps) if values_needed else None
    grad_rows = None if grad_maps is None else grad_maps.flatten(0, 1)
    grad_conv_weight = torch.empty_like(parameters.conv_weight, memory_format=torch.contiguous_format)
    grad_branches: list[tuple[Tensor, Tensor]] = []
    rows = _rows(values, parameters.conv_weight)
    for branch, samples in enumerate(offsets.branch_samples(rows, offset_mask, layout, offset_mode)):
        weight = parameters.conv_weight[branch]
        grad_offset, grad_mask, grad_matrix = deform_conv.backward(
            grad_convolved.pop(0), samples, _matrix(weight), grad_rows, True, parameters_needed
        )
        grad_branches.append((cast(Tensor, grad_offset).flatten(-2), cast(Tensor, grad_mask)))
        if grad_matrix is not None:
            grad_conv_weight[branch] = grad_matrix.unflatten(1, (*weight.shape[2:], -1)).permute(0, 3, 1, 2)

    grad_logits = offsets.branch_samples_backward(grad_branches, offset_mask, layout, offset_mode)
    grad_weight, grad_bias = offsets.backward(grad_logits, maps, parameters, layout, grad_maps, parameters_needed)
    grads |= {"offset_weight": grad_weight, "offset_bias": grad_bias, "conv_weight": grad_conv_weight}
    return (
        None if grad_maps is None else grad_maps.to(values.dtype),
        [grads[field.name] if parameters_needed else None for field in fields(BlockParameters)],
    )


def _rows(values: Tensor, weight: Tensor) -> Tensor:
    """Rows to sample: the values where they are in the matrix product's dtype, else in that of sampling."""
    return values.to(values.dtype if values.dtype == weight.dtype else sampling_dtype(values, weight)).contiguous()


def _matrix(weight: Tensor) -> Tensor:
    """(C, C_in, 3, 3) -> (C, 9 * C_in), taps outermost."""
    return weight.permute(0, 2, 3, 1).flatten(1)
