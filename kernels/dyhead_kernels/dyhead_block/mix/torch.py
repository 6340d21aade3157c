"""From raw convolutions to the next pyramid: two passes over the maps forward, two backward.

Forward: the moments that `coefficients.fold` asks for, then its formula. Backward: the formula's gradient, with the
sums that are the coefficients' gradients; then, these traced back to the moments, the whole gradient of each
convolution. Every pass goes level by level through the same few buffers: on a CPU fresh memory costs more than the
arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from ..attention.torch import Coefficients, Moments, fold, fold_backward
from ..layout import HIGH, LOW, MID, Layout
from ..parameters import BlockParameters

Maps = dict[tuple[int, int], Tensor]  # (branch, level) -> (N, H * W, C)


def moments_of(convolved: Sequence[Tensor], layout: Layout, moments: Moments) -> None:
    """Moments of high, mid and low, (N, S_i, C) each, packed as `Layout` says, written to `moments`."""
    for tensor in moments:
        tensor.zero_()
    for (branch, level), rows in layout.split(convolved).items():
        (buffer,) = _buffers(1, rows, moments.mean.dtype)
        rows = _widened(rows, buffer)
        at = _at_level(moments, level)
        at.mean[branch] = at.mean_upsampled[branch] = mean = rows.mean(dim=1, keepdim=True)
        centred = torch.sub(rows, mean, out=buffer)
        if branch == HIGH:
            at.mean_upsampled[branch] += layout.upsampling_shares(level, mean.dtype, mean.device) @ centred
        at.variance[branch] = centred.square_().mean(dim=1, keepdim=True)


def mix_branches(
    convolved: Sequence[Tensor],
    moments: Moments,
    parameters: BlockParameters,
    layout: Layout,
    norm_groups: int,
    output: Tensor,
) -> None:
    """GroupNorm, scale attention, mean over the branches and dynamic ReLU.

    Args:
        convolved: high, mid and low, (N, S_i, C) each, without the convolutions' bias, packed as `Layout` says.
        moments: theirs; mixing is done in their dtype, float32 or wider.
        output: (N, S, C) in the dtype of `convolved`; written.
    """
    maps, coefficients = layout.split(convolved), fold(moments, parameters, layout, norm_groups)
    for level, output_level in enumerate(_levels(output, layout)):
        at = _at_level(coefficients, level)
        mixed, line = _buffers(2, output_level, at.shift.dtype)
        scaled_high = maps[HIGH, level] * at.gain[HIGH] if (HIGH, level) in maps else None
        _mix(mixed, maps, level, at, None if scaled_high is None else layout.upsample(scaled_high, level), line)
        torch.addcmul(at.shift1, mixed, at.slope1, out=line)
        torch.addcmul(at.shift2, mixed, at.slope2, out=mixed)
        output_level.copy_(torch.maximum(line, mixed, out=mixed))


def mix_branches_backward(
    grad_output: Tensor,
    convolved: Sequence[Tensor],
    moments: Moments,
    parameters: BlockParameters,
    layout: Layout,
    norm_groups: int,
) -> tuple[list[Tensor], dict[str, Tensor | None]]:
    """Gradients of high, mid and low in their dtype, and of the parameters that `coefficients.fold` reads, by name."""
    maps, coefficients = layout.split(convolved), fold(moments, parameters, layout, norm_groups)
    grad_scaled, grad_coefficients = _apply_backward(maps, coefficients, layout, grad_output)
    grad_moments, grad_parameters = fold_backward(moments, parameters, layout, norm_groups, grad_coefficients)
    grad_convolved = [torch.empty_like(rows) for rows in convolved]
    _convolved_backward(maps, coefficients, moments, layout, grad_scaled, grad_moments, layout.split(grad_convolved))
    return grad_convolved, grad_parameters


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
    for level, grad in enumerate(_levels(grad_output, layout)):
        at, grad_at = _at_level(coefficients, level), _at_level(grad_coefficients, level)
        mixed, line1, line2, scratch, widened = _buffers(5, maps[MID, level], at.shift.dtype)
        scaled_high = maps[HIGH, level] * at.gain[HIGH] if (HIGH, level) in maps else None
        _mix(mixed, maps, level, at, None if scaled_high is None else layout.upsample(scaled_high, level), scratch)

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
        if (HIGH, level) in maps:
            grad_scaled[HIGH, level] = grad_high = layout.upsample_backward(grad_mixed, level)
            grad_at.gain[HIGH] = (grad_high * maps[HIGH, level]).sum(dim=1, keepdim=True)
    return grad_scaled, grad_coefficients


def _convolved_backward(
    maps: Maps,
    coefficients: Coefficients,
    moments: Moments,
    layout: Layout,
    grad_scaled: Maps,
    grad_moments: Moments,
    grad_maps: Maps,
) -> None:
    """Gradients of `maps`, through the formula and through the moments, written to `grad_maps`."""
    for (branch, level), rows in maps.items():
        at, grad_at = _at_level(coefficients, level), _at_level(grad_moments, level)
        grad, widened = _buffers(2, rows, at.shift.dtype)
        count = rows.shape[1]
        # The variance's gradient is of Y - mean; the mean goes with all that is the same for every row.
        per_deviation = grad_at.variance[branch] * (2 / count)
        per_row = grad_at.mean[branch] / count - per_deviation * _at_level(moments, level).mean[branch]
        if branch != HIGH:
            per_row = per_row + grad_at.mean_upsampled[branch] / count
        torch.addcmul(per_row, grad_scaled[branch, level], at.gain[branch], out=grad)
        grad.addcmul_(_widened(rows, widened), per_deviation)
        if branch == HIGH:
            shares = layout.upsampling_shares(level, grad.dtype, grad.device)
            grad.addcmul_(shares.unsqueeze(-1), grad_at.mean_upsampled[HIGH])
        grad_maps[branch, level].copy_(grad)


def _levels(packed: Tensor, layout: Layout) -> tuple[Tensor, ...]:
    """Views (N, H * W, C) of the levels of (N, S, C)."""
    return packed.split([height * width for height, width in layout.shapes], dim=1)


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
