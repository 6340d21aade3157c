"""From raw convolutions to the next pyramid: two passes over the maps forward, two backward.

Forward: the means that `coefficients.fold` asks for, then its formula. Backward: the formula's gradient, with the
sums that are the coefficients' gradients; then, these traced back to the means, the whole gradient of each convolution.
Every pass goes level by level through the same few buffers: on a CPU fresh memory costs more than the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dyhead_kernels.dyhead_block.coefficients import Coefficients, Moments, fold
from dyhead_kernels.dyhead_block.layout import HIGH, LOW, MID, Layout
from dyhead_kernels.dyhead_block.parameters import BlockParameters
from dyhead_kernels.precision import sampling_dtype

# The parameters that `fold` reads.
FOLDED = tuple(f.name for f in fields(BlockParameters) if f.name not in ("offset_weight", "offset_bias", "conv_weight"))

Maps = dict[tuple[int, int], Tensor]  # (branch, level) -> (N, H * W, C)


def mix_branches(convolved: Sequence[Tensor], parameters: BlockParameters, layout: Layout, norm_groups: int) -> Tensor:
    """GroupNorm, scale attention, mean over the branches and dynamic ReLU.

    Args:
        convolved: high, mid and low, (N, S_i, C) each, without the convolutions' bias, packed as `Layout` says.

    Returns:
        (N, S, C) in the dtype of `convolved`; means and mixing are done in float32 or wider.
    """
    folded = (getattr(parameters, name) for name in FOLDED)
    output: Tensor = _Mix.apply(parameters, layout, norm_groups, *convolved, *folded)
    return output


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parameters: BlockParameters, layout: Layout, norm_groups: int, *tensors: Any) -> Tensor:
        convolved, folded = tensors[:3], tensors[3:]
        maps = layout.split(convolved)
        moments = _moments(maps, layout)
        ctx.save_for_backward(*convolved, *moments, *folded)
        ctx.parameters, ctx.layout, ctx.norm_groups = parameters, layout, norm_groups
        return _apply(maps, fold(moments, parameters, layout, norm_groups), layout)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        layout: Layout = ctx.layout
        convolved, moments, folded = ctx.saved_tensors[:3], ctx.saved_tensors[3:6], ctx.saved_tensors[6:]
        maps = layout.split(convolved)
        with torch.enable_grad():
            moments = Moments(*(m.detach().requires_grad_() for m in moments))
            folded = [None if p is None else p.detach().requires_grad_() for p in folded]
            parameters = replace(ctx.parameters, **dict(zip(FOLDED, folded, strict=True)))
            coefficients = fold(moments, parameters, layout, ctx.norm_groups)

        constants = Coefficients(*(c.detach() for c in coefficients))
        grad_scaled, grad_coefficients = _apply_backward(maps, constants, layout, grad_output)
        leaves = [*moments, *(p for p in folded if p is not None)]
        grads = iter(torch.autograd.grad(coefficients, leaves, grad_coefficients))
        grad_moments = Moments(next(grads), next(grads), next(grads))
        grad_folded = [None if p is None else next(grads) for p in folded]
        grad_convolved = _convolved_backward(maps, constants, layout, grad_scaled, grad_moments)
        return None, None, None, *grad_convolved, *grad_folded


def _moments(maps: Maps, layout: Layout) -> Moments:
    finest = maps[MID, 0]
    dtype = sampling_dtype(finest)
    moments = Moments(*finest.new_zeros(3, 3, len(finest), len(layout.shapes), finest.shape[2], dtype=dtype))
    for (branch, level), rows in maps.items():
        widened, squares = _buffers(2, rows, dtype)
        rows = _widened(rows, widened)
        at = _at_level(moments, level)
        at.mean[branch] = rows.mean(dim=1, keepdim=True)
        at.mean_square[branch] = torch.mul(rows, rows, out=squares).mean(dim=1, keepdim=True)
        shares = layout.upsampling_shares(level, dtype, rows.device) if branch == HIGH else None
        at.mean_upsampled[branch] = at.mean[branch] if shares is None else shares @ rows
    return moments


def _apply(maps: Maps, coefficients: Coefficients, layout: Layout) -> Tensor:
    """The output (N, S, C)."""
    output = []
    for level in layout.levels:
        at = _at_level(coefficients, level)
        mixed, line = _buffers(2, maps[MID, level], at.shift.dtype)
        scaled_high = maps[HIGH, level] * at.gain[HIGH] if (HIGH, level) in maps else None
        _mix(mixed, maps, level, at, None if scaled_high is None else layout.upsample(scaled_high, level), line)
        torch.addcmul(at.shift1, mixed, at.slope1, out=line)
        torch.addcmul(at.shift2, mixed, at.slope2, out=mixed)
        output.append(torch.maximum(line, mixed, out=mixed).to(maps[MID, level].dtype))
    return torch.cat(output, dim=1)


def _mix(
    mixed: Tensor, maps: Maps, level: int, at: Coefficients, upsampled_high: Tensor | None, scratch: Tensor
) -> None:
    """mixed = m of one level."""
    torch.addcmul(at.shift, _widened(maps[MID, level], scratch), at.gain[MID], out=mixed)
    if (LOW, level) in maps:
        mixed.addcmul_(_widened(maps[LOW, level], scratch), at.gain[LOW])
    if upsampled_high is not None:
        mixed.add_(upsampled_high)


def _apply_backward(
    maps: Maps, coefficients: Coefficients, layout: Layout, grad_output: Tensor
) -> tuple[Maps, Coefficients]:
    """Gradients of every A_i Y_i, before upsampling, and of the coefficients."""
    grad_coefficients = Coefficients(*(torch.zeros_like(c) for c in coefficients))
    grad_scaled: Maps = {}
    sizes = [maps[MID, level].shape[1] for level in layout.levels]
    for level, grad in zip(layout.levels, grad_output.split(sizes, dim=1), strict=True):
        at, grad_at = _at_level(coefficients, level), _at_level(grad_coefficients, level)
        mixed, line1, line2, scratch, widened = _buffers(5, maps[MID, level], at.shift.dtype)
        with torch.enable_grad():
            if (HIGH, level) in maps:
                scaled_high = (maps[HIGH, level] * at.gain[HIGH]).requires_grad_()
                upsampled_high = layout.upsample(scaled_high, level)
            else:
                upsampled_high = None
        _mix(mixed, maps, level, at, None if upsampled_high is None else upsampled_high.detach(), scratch)

        torch.addcmul(at.shift1, mixed, at.slope1, out=line1)
        torch.addcmul(at.shift2, mixed, at.slope2, out=line2)
        first_is_larger = torch.ge(line1, line2, out=line1)  # 1.0 or 0.0
        grad1 = first_is_larger.mul_(_widened(grad, widened))
        grad2 = torch.sub(_widened(grad, widened), grad1, out=line2)
        _sum(grad1, grad_at.shift1)
        _sum(grad2, grad_at.shift2)
        _sum_of_product(grad1, mixed, grad_at.slope1, scratch)
        _sum_of_product(grad2, mixed, grad_at.slope2, scratch)

        grad_mixed = torch.mul(grad1, at.slope1).addcmul_(grad2, at.slope2)
        _sum(grad_mixed, grad_at.shift)
        for branch in (MID, LOW):
            if (branch, level) in maps:
                grad_scaled[branch, level] = grad_mixed
                _sum_of_product(grad_mixed, _widened(maps[branch, level], widened), grad_at.gain[branch], scratch)
        if upsampled_high is not None:
            (grad_high,) = torch.autograd.grad(upsampled_high, scaled_high, grad_mixed)
            grad_scaled[HIGH, level] = grad_high
            grad_at.gain[HIGH] = (grad_high * maps[HIGH, level]).sum(dim=1, keepdim=True)
    return grad_scaled, grad_coefficients


def _convolved_backward(
    maps: Maps, coefficients: Coefficients, layout: Layout, grad_scaled: Maps, grad_moments: Moments
) -> list[Tensor | None]:
    """Gradients of high, mid and low, (N, S_i, C) each: through the formula and through the means."""
    parts: list[list[Tensor]] = [[], [], []]
    for (branch, level), rows in maps.items():
        at, grad_at = _at_level(coefficients, level), _at_level(grad_moments, level)
        grad, widened = _buffers(2, rows, at.shift.dtype)
        count = rows.shape[1]
        per_row = grad_at.mean[branch] / count
        if branch != HIGH:
            per_row = per_row + grad_at.mean_upsampled[branch] / count
        torch.addcmul(per_row, grad_scaled[branch, level], at.gain[branch], out=grad)
        grad.addcmul_(_widened(rows, widened), grad_at.mean_square[branch] * (2 / count))
        if branch == HIGH:
            shares = layout.upsampling_shares(level, grad.dtype, grad.device)
            grad.addcmul_(shares.unsqueeze(-1), grad_at.mean_upsampled[HIGH])
        parts[branch].append(grad.to(rows.dtype))
    return [torch.cat(p, dim=1) if p else None for p in parts]


MapsAtLevel = TypeVar("MapsAtLevel", Moments, Coefficients)


def _at_level(per_level: MapsAtLevel, level: int) -> MapsAtLevel:
    """Views (..., N, 1, C) of one level's (..., N, L, C)."""
    return type(per_level)(*(values[..., level : level + 1, :] for values in per_level))


def _buffers(count: int, like: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    return tuple(torch.empty(count, *like.shape, dtype=dtype, device=like.device))


def _widened(rows: Tensor, buffer: Tensor) -> Tensor:
    """`rows` in the dtype of `buffer`, copied there if need be."""
    return rows if rows.dtype == buffer.dtype else buffer.copy_(rows)


def _sum(rows: Tensor, total: Tensor) -> None:
    total.copy_(rows.sum(dim=1, keepdim=True))


def _sum_of_product(left: Tensor, right: Tensor, total: Tensor, scratch: Tensor) -> None:
    _sum(torch.mul(left, right, out=scratch), total)
