"""From raw convolutions to the next pyramid in plain PyTorch: one pass over the maps forward, two backward.

Every pass goes level by level through the same few buffers: on a CPU fresh memory costs more than the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from .. import native
from ..attention.quantities import Coefficients, Moments
from ..layout import HIGH, LOW, MID, BranchLayout

Maps = dict[tuple[int, int], Tensor]  # (branch, level) -> (N, H * W, C)


def forward(
    convolved: Sequence[Tensor], moments: Moments, coefficients: Coefficients, layout: BranchLayout, output: Tensor
) -> None:
    """Upsample, weigh, add and activate, by the formula of `attention/quantities.py`.

    Args:
        convolved: high, mid and low, (N, S_i, C) each, without the convolutions' bias, packed as `BranchLayout` says.
        moments, coefficients: theirs, (3, N, L, C) and (N, L, C); mixing is done in their dtype, float32 or wider.
        output: (N, S, C) in the dtype of `convolved`; written.
    """
    if native.serves((*convolved, output), *coefficients):
        native.mix(convolved, moments.mean, coefficients, layout, output)
        return
    maps = layout.split(convolved)
    for level, output_level in enumerate(_levels(output, layout)):
        at = _at_level(coefficients, level)
        mixed, line = _buffers(2, output_level, at.shift.dtype)
        _mix(mixed, maps, level, at, _at_level(moments, level), layout, line)
        torch.addcmul(at.shift1, mixed, at.slope1, out=line)
        torch.addcmul(at.shift2, mixed, at.slope2, out=mixed)
        output_level.copy_(torch.maximum(line, mixed, out=mixed))


def _mix(
    mixed: Tensor, maps: Maps, level: int, at: Coefficients, moments: Moments, layout: BranchLayout, scratch: Tensor
) -> None:
    """mixed = m of one level. What it is less of A_i M_i is the same for every row, hence D - sum_i A_i M_i once."""
    high = None if (HIGH, level) not in maps else layout.upsample(maps[HIGH, level] * at.gain[HIGH], level)
    shift = at.shift - (at.gain * moments.mean).sum(dim=0)
    torch.addcmul(shift, _widened(maps[MID, level], scratch), at.gain[MID], out=mixed)
    if (LOW, level) in maps:
        mixed.addcmul_(_widened(maps[LOW, level], scratch), at.gain[LOW])
    if high is not None:
        mixed.add_(high)


def backward(
    grad_output: Tensor, convolved: Sequence[Tensor], moments: Moments, coefficients: Coefficients, layout: BranchLayout
) -> tuple[Maps, Coefficients]:
    """Gradients of every A_i Y_i, before upsampling, and of the coefficients."""
    maps = layout.split(convolved)
    grad_coefficients = Coefficients(*(torch.zeros_like(c) for c in coefficients))
    grad_scaled: Maps = {}
    for level, grad in enumerate(_levels(grad_output, layout)):
        at, grad_at = _at_level(coefficients, level), _at_level(grad_coefficients, level)
        mean = _at_level(moments, level).mean
        mixed, line1, line2, scratch, widened = _buffers(5, maps[MID, level], at.shift.dtype)
        _mix(mixed, maps, level, at, _at_level(moments, level), layout, scratch)

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
            _sum(grad_high * maps[HIGH, level], grad_at.gain[HIGH])
        grad_at.gain.sub_(mean * grad_at.shift)  # zero where there is no branch
    return grad_scaled, grad_coefficients


def branches_backward(
    grad_scaled: Maps,
    convolved: Sequence[Tensor],
    moments: Moments,
    coefficients: Coefficients,
    grad_moments: Moments,
    layout: BranchLayout,
) -> list[Tensor]:
    """The whole gradient of high, mid and low, through the formula and through the moments, in their dtype."""
    grad_convolved = [torch.empty_like(rows) for rows in convolved]
    grad_maps = layout.split(grad_convolved)
    for (branch, level), rows in layout.split(convolved).items():
        at, grad_at = _at_level(coefficients, level), _at_level(grad_moments, level)
        grad, widened = _buffers(2, rows, at.shift.dtype)
        count = rows.shape[1]
        # The variance's gradient is of Y - M; the mean goes with all that is the same for every row.
        per_deviation = grad_at.variance[branch] * (2 / count)
        per_row = grad_at.mean[branch] / count - per_deviation * _at_level(moments, level).mean[branch]
        if branch == HIGH:
            per_row = per_row - grad_at.mean_change[HIGH] / count
        torch.addcmul(per_row, grad_scaled[branch, level], at.gain[branch], out=grad)
        grad.addcmul_(_widened(rows, widened), per_deviation)
        if branch == HIGH:
            weights = layout.upsampling_weights(level, grad.dtype, grad.device)
            grad.addcmul_(weights.unsqueeze(-1), grad_at.mean_change[HIGH])
        grad_maps[branch, level].copy_(grad)
    return grad_convolved


def _levels(packed: Tensor, layout: BranchLayout) -> tuple[Tensor, ...]:
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
