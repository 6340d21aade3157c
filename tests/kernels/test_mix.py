"""The mix of raw convolutions to the next pyramid, and its gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from dyhead_kernels.dyhead_block.attention import torch as attention
from dyhead_kernels.dyhead_block.attention.quantities import Coefficients, Moments
from dyhead_kernels.dyhead_block.layout import BranchLayout
from dyhead_kernels.dyhead_block.mix import torch as mix
from torch import Tensor

from tests.kernels.block_cases import PYRAMIDS, Shapes, every_pyramid, random_parameters
from tests.kernels.mix_cases import CHANNELS, NORM_GROUPS, either_form, measured, random_maps


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mean", [1e3, -1e4])
@either_form
def test_a_large_mean_does_not_cancel(mean: float, seed: int) -> None:
    """In float32, E[Y^2] - E[Y]^2 of these maps is off by a tenth and more; what is left here is the sums' rounding."""
    torch.manual_seed(seed)
    layout = BranchLayout(PYRAMIDS["three levels"])
    maps = random_maps(layout.shapes, mean=mean, dtype=torch.float32)
    parameters, grad_output = random_parameters(8, CHANNELS), torch.empty(())
    results: dict[torch.dtype, dict[str, Any]] = {}
    for dtype in (torch.float64, torch.float32):
        block = replace(parameters, **{n: p.detach().to(dtype) for n, p in vars(parameters).items()})
        converted = [m.to(dtype) for m in maps]
        moments = measured(converted, layout, dtype)
        coefficients = attention.forward(moments, block, layout, NORM_GROUPS)
        output = _mixed(converted, moments, coefficients, layout)
        if dtype == torch.float64:  # where the two lines meet, rounding chooses between their slopes
            line1 = coefficients._replace(slope2=coefficients.slope1, shift2=coefficients.shift1)
            line2 = coefficients._replace(slope1=coefficients.slope2, shift1=coefficients.shift2)
            apart = (_mixed(converted, moments, line1, layout) - _mixed(converted, moments, line2, layout)).abs()
            grad_output = (1.0 + torch.arange(CHANNELS)) * (apart > 1e-6 * abs(mean))
            assert grad_output.count_nonzero() > 0.9 * grad_output.numel()
        scaled, grad_coefficients = mix.backward(grad_output.to(dtype), converted, moments, coefficients, layout)
        grad_moments, _ = attention.backward(moments, block, layout, NORM_GROUPS, grad_coefficients)
        grads = mix.branches_backward(scaled, converted, moments, coefficients, grad_moments, layout)
        results[dtype] = {"variance": moments.variance, "output": output, "gradient": torch.cat(grads, dim=1)}
    for name, expected in results[torch.float64].items():
        difference = (results[torch.float32][name] - expected).norm() / expected.norm()
        assert difference < 3e-7 * abs(mean), name


def _mixed(maps: list[Tensor], moments: Moments, coefficients: Coefficients, layout: BranchLayout) -> Tensor:
    output = torch.empty_like(maps[1])
    mix.forward(maps, moments, coefficients, layout, output)
    return output


@every_pyramid
def test_gradients_of_the_convolutions_agree_with_autograd(shapes: Shapes) -> None:
    """Through the formula, and through the moments that it is made of."""
    layout, parameters = BranchLayout(shapes), random_parameters(8, CHANNELS)
    maps = random_maps(shapes)
    leaves = [each.clone().requires_grad_() for each in maps]
    moments = measured(maps, layout, torch.float64)
    output, grad_output = torch.empty_like(maps[1]), torch.randn_like(maps[1])
    with torch.no_grad():
        coefficients = attention.forward(moments, parameters, layout, NORM_GROUPS)
        mix.forward(maps, moments, coefficients, layout, output)
        scaled, grad_coefficients = mix.backward(grad_output, maps, moments, coefficients, layout)
        grad_moments, _ = attention.backward(moments, parameters, layout, NORM_GROUPS, grad_coefficients)
        actual = mix.branches_backward(scaled, maps, moments, coefficients, grad_moments, layout)

    views, levels = layout.split(leaves), []
    upsampled = {
        (b, n): layout.upsample(rows, n) if layout.output(b, n) != n else rows for (b, n), rows in views.items()
    }
    rebuilt = [torch.zeros_like(each) for each in moments]
    for (branch, level), rows in views.items():
        mean = rows.mean(dim=1)
        parts = (mean, rows.var(dim=1, unbiased=False), upsampled[branch, level].mean(dim=1) - mean)
        for moment, part in zip(rebuilt, parts, strict=True):
            moment[branch, :, level] = part
    found = attention.forward(type(moments)(*rebuilt), parameters, layout, NORM_GROUPS)
    for level in layout.levels:
        mixed = found.shift[:, level, None]
        for branch in (branch for branch, at in views if at == level):
            centred = upsampled[branch, level] - rebuilt[0][branch, :, level, None]
            mixed = mixed + found.gain[branch, :, level, None] * centred
        lines = (
            slope[:, level, None] * mixed + shift[:, level, None]
            for slope, shift in ((found.slope1, found.shift1), (found.slope2, found.shift2))
        )
        levels.append(torch.maximum(*lines))
    expected = torch.cat(levels, dim=1)
    torch.testing.assert_close(output, expected.detach(), rtol=1e-10, atol=1e-10)

    wanted = torch.autograd.grad(expected, leaves, grad_output, allow_unused=True, materialize_grads=True)
    for each, right in zip(actual, wanted, strict=True):
        torch.testing.assert_close(each, right, rtol=1e-9, atol=1e-10)
