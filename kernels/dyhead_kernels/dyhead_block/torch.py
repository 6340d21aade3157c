"""One DyHead block in plain PyTorch, fast on CPUs: three sampled convolutions over all levels at once, then one mix."""

from __future__ import annotations

from dataclasses import fields
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..deform_conv.packed.torch import Samples, sampled_conv, sampled_conv_backward
from ..precision import sampling_dtype
from ..pyramid import Pyramid
from .attention.torch import Moments
from .layout import BRANCHES, HIGH, LOW, MID, Layout
from .mix.torch import mix_branches, mix_branches_backward, moments_of
from .offsets.reference import high_branch_steering, high_branch_steering_backward
from .parameters import OFFSETS, BlockParameters, OffsetMode


class State(NamedTuple):
    """What the backward pass needs besides the inputs.

    Attributes:
        steering: (N, S, 27), 9 pairs (dy, dx) and 9 masks, the sigmoid applied, in the dtype of sampling.
        high, mid, low: (N, S_i, C), the raw convolutions, packed as `Layout` says, in the dtype of the matrix product.
        moments: (3, 3, N, L, C), mean, variance and mean_upsampled of `coefficients.Moments`.
    """

    steering: Tensor
    high: Tensor
    mid: Tensor
    low: Tensor
    moments: Tensor


def state_like(
    values: Tensor, parameters: BlockParameters, layout: Layout, offset_mode: OffsetMode, norm_groups: int
) -> tuple[Tensor, ...]:
    """The output (N, S, C) and the tensors of `State`, allocated and not filled."""
    batch, positions, _ = values.shape
    weight = parameters.conv_weight
    channels, dtype = weight.shape[1], sampling_dtype(values, weight)
    coarser = positions - layout.shapes[0][0] * layout.shapes[0][1]
    state = State(
        steering=values.new_empty(batch, positions, len(parameters.offset_bias), dtype=dtype),
        high=weight.new_empty(batch, coarser, channels),
        mid=weight.new_empty(batch, positions, channels),
        low=weight.new_empty(batch, coarser, channels),
        moments=values.new_empty(3, len(BRANCHES), batch, len(layout.shapes), channels, dtype=dtype),
    )
    return weight.new_empty(batch, positions, channels), *state


def forward(
    values: Tensor, parameters: BlockParameters, layout: Layout, offset_mode: OffsetMode, norm_groups: int
) -> tuple[Tensor, list[Tensor]]:
    """The output (N, S, C) and the tensors of `State`.

    Args:
        values: (N, S, C_in), of any dtype.
        parameters: `conv_weight` in the dtype of the matrix product, which is the output's; the others in any.
    """
    output, *allocated = state_like(values, parameters, layout, offset_mode, norm_groups)
    state = State(*allocated)
    maps = values.to(state.steering.dtype).contiguous()
    _steer(maps, parameters, layout, state.steering)
    convolved = (state.high, state.mid, state.low)
    for branch, samples in enumerate(_samples(maps, state.steering, layout, offset_mode)):
        sampled_conv(samples, _matrix(parameters.conv_weight[branch]), convolved[branch])
    del maps, samples  # not needed any more, and as large as the maps to come
    moments = Moments(*state.moments.unbind())
    moments_of(convolved, layout, moments)
    mix_branches(convolved, moments, parameters, layout, norm_groups, output)
    return output, list(state)


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

    Args:
        needs: whether the gradient of `values` is wanted, and whether any parameter's is.
    """
    values_needed, parameters_needed = needs
    steering, high, mid, low, moments = State(*state)
    grad_convolved, grads = mix_branches_backward(
        grad_output, (high, mid, low), Moments(*moments.unbind()), parameters, layout, norm_groups
    )
    maps = values.to(steering.dtype).contiguous()
    grad_maps = torch.zeros_like(maps) if values_needed else None
    grad_rows = None if grad_maps is None else grad_maps.flatten(0, 1)
    grad_conv_weight = torch.empty_like(parameters.conv_weight, memory_format=torch.contiguous_format)
    grad_steering: list[tuple[Tensor, Tensor]] = []
    for branch, samples in enumerate(_samples(maps, steering, layout, offset_mode)):
        weight = parameters.conv_weight[branch]
        grad_offset, grad_mask, grad_matrix = sampled_conv_backward(
            grad_convolved.pop(0), samples, _matrix(weight), grad_rows, True, parameters_needed
        )
        grad_steering.append((cast(Tensor, grad_offset).flatten(-2), cast(Tensor, grad_mask)))
        if grad_matrix is not None:
            grad_conv_weight[branch] = grad_matrix.unflatten(1, (*weight.shape[2:], -1)).permute(0, 3, 1, 2)

    grad_logits = _branch_steering_backward(grad_steering, steering, layout, offset_mode)
    grad_weight, grad_bias = _steer_backward(grad_logits, maps, parameters, layout, grad_maps, parameters_needed)
    grads |= {"offset_weight": grad_weight, "offset_bias": grad_bias, "conv_weight": grad_conv_weight}
    return (
        None if grad_maps is None else grad_maps.to(values.dtype),
        [grads[field.name] if parameters_needed else None for field in fields(BlockParameters)],
    )


def _steer(maps: Tensor, parameters: BlockParameters, layout: Layout, steering: Tensor) -> None:
    """Offsets and masks of every position of `maps` (N, S, C_in), written to `steering` (N, S, 27).

    The offset convolution stays in float32 under autocast: offsets rounded to bfloat16 move the sampling positions, and
    a block's gradients with them by a tenth.
    """
    weight, bias = parameters.offset_weight.to(maps.dtype), parameters.offset_bias.to(maps.dtype)
    levels = zip(Pyramid(maps, layout.shapes).levels(), Pyramid(steering, layout.shapes).levels(), strict=True)
    for level, steering_level in levels:
        steering_level.copy_(F.conv2d(level, weight, bias, padding=1))
    steering[..., OFFSETS:].sigmoid_()


def _steer_backward(
    grad_logits: Tensor,
    maps: Tensor,
    parameters: BlockParameters,
    layout: Layout,
    grad_maps: Tensor | None,
    parameters_needed: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the offset convolution's weight and bias; that of `maps` is added to `grad_maps` if there is one."""
    weight = parameters.offset_weight.to(maps.dtype)
    needs = [grad_maps is not None, parameters_needed, parameters_needed]
    levels = Pyramid(maps, layout.shapes).levels()
    grad_levels = [None] * len(levels) if grad_maps is None else Pyramid(grad_maps, layout.shapes).levels()
    total_weight, total_bias = torch.zeros_like(weight), weight.new_zeros(len(weight))
    for level, grad_level, grad in zip(levels, grad_levels, Pyramid(grad_logits, layout.shapes).levels(), strict=True):
        grad_input, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad, level, weight, [len(weight)], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, needs
        )
        if grad_level is not None:
            grad_level.add_(grad_input)
        if parameters_needed:
            total_weight.add_(grad_weight)
            total_bias.add_(grad_bias)
    if not parameters_needed:
        return None, None
    return total_weight.to(parameters.offset_weight.dtype), total_bias.to(parameters.offset_bias.dtype)


def _samples(maps: Tensor, steering: Tensor, layout: Layout, mode: OffsetMode) -> list[Samples]:
    """What the branches high, mid and low sample from `maps` (N, S, C_in)."""
    offset, mask = (Pyramid(part, layout.shapes) for part in (steering[..., :OFFSETS], steering[..., OFFSETS:]))
    high = [(offset.values[:, :0], mask.values[:, :0])]
    for level in layout.levels[:-1]:
        maps_pair = high_branch_steering(offset.level(level), mask.level(level), layout.shapes[level + 1], mode)
        high.append((_packed(maps_pair[0]), _packed(maps_pair[1])))
    high_offset, high_mask = (torch.cat(parts, dim=1) for parts in zip(*high, strict=True))
    coarser = slice(offset.starts[1], None)
    branches = {
        HIGH: (high_offset, high_mask),
        MID: (offset.values, mask.values),
        LOW: (offset.values[:, coarser], mask.values[:, coarser]),
    }
    rows = maps.flatten(0, 1)
    return [
        Samples(rows, offset.unflatten(-1, (9, 2)), mask, layout.grid(branch, maps.dtype, maps.device))
        for branch, (offset, mask) in ((branch, branches[branch]) for branch in BRANCHES)
    ]


def _branch_steering_backward(
    grads: list[tuple[Tensor, Tensor]], steering: Tensor, layout: Layout, mode: OffsetMode
) -> Tensor:
    """Gradients of each branch's offsets (N, P, 18) and masks (N, P, 9) -> of the offset convolution (N, S, 27)."""
    total = torch.cat(grads[MID], dim=-1)
    finest = layout.shapes[0][0] * layout.shapes[0][1]
    total[:, finest:] += torch.cat(grads[LOW], dim=-1)
    levels, sizes = Pyramid(total, layout.shapes).levels(), [h * w for h, w in layout.shapes[1:]]
    high = zip(*(grad.split(sizes, dim=1) for grad in grads[HIGH]), strict=True)
    for level, (grad_offset, grad_mask) in enumerate(high):
        small = [grad.unflatten(1, layout.shapes[level + 1]).permute(0, 3, 1, 2) for grad in (grad_offset, grad_mask)]
        grad_offset, grad_mask = high_branch_steering_backward(small[0], small[1], layout.shapes[level], mode)
        levels[level][:, :OFFSETS] += grad_offset
        levels[level][:, OFFSETS:] += grad_mask
    mask = steering[..., OFFSETS:]
    total[..., OFFSETS:] *= mask * (1 - mask)
    return total


def _packed(maps: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H * W, C)."""
    return maps.flatten(2).transpose(1, 2)


def _matrix(weight: Tensor) -> Tensor:
    """(C, C_in, 3, 3) -> (C, 9 * C_in), taps outermost."""
    return weight.permute(0, 2, 3, 1).flatten(1)
