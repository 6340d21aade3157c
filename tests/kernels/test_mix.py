"""Statistics of the raw convolutions and the coefficients folded from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from dyhead_kernels.dyhead_block.attention.torch import Coefficients, Moments, fold, fold_backward
from dyhead_kernels.dyhead_block.layout import BRANCHES, Layout
from dyhead_kernels.dyhead_block.mix.torch import mix_branches, mix_branches_backward, moments_of
from test_dyhead_block import PYRAMIDS, Shapes, every_pyramid, random_parameters
from tolerances import assert_near
from torch import Tensor

CHANNELS, NORM_GROUPS = 12, 4


def random_maps(shapes: Shapes, batch: int = 2, mean: float = 0.0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Raw convolutions high, mid and low of unit spread."""
    positions = sum(h * w for h, w in shapes)
    coarser = positions - shapes[0][0] * shapes[0][1]
    return [(torch.randn(batch, p, CHANNELS) + mean).to(dtype) for p in (coarser, positions, coarser)]


def measured(maps: list[Tensor], layout: Layout, dtype: torch.dtype) -> Moments:
    moments = Moments(*torch.full((3, 3, len(maps[0]), len(layout.shapes), CHANNELS), float("nan"), dtype=dtype))
    moments_of(maps, layout, moments)
    return moments


@every_pyramid
def test_moments_are_those_of_the_maps(shapes: Shapes) -> None:
    layout, maps = Layout(shapes), random_maps(shapes)
    moments = measured(maps, layout, torch.float64)
    views = layout.split(maps)
    for level in layout.levels:
        for branch in BRANCHES:
            rows = views.get((branch, level), torch.zeros(2, 1, CHANNELS, dtype=torch.float64))
            upsampled = layout.upsample(rows, level) if layout.output(branch, level) != level and rows.any() else rows
            expected = (rows.mean(dim=1), rows.var(dim=1, unbiased=False), upsampled.mean(dim=1))
            for found, wanted in zip(moments, expected, strict=True):
                torch.testing.assert_close(found[branch, :, level], wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mean", [1e3, -1e4])
def test_a_large_mean_does_not_cancel(mean: float) -> None:
    """In float32, E[Y^2] - E[Y]^2 of these maps is off by a tenth and more; what is left here is the sums' rounding."""
    layout, maps = (
        Layout(PYRAMIDS["three levels"]),
        random_maps(PYRAMIDS["three levels"], mean=mean, dtype=torch.float32),
    )
    parameters = random_parameters(8, CHANNELS)
    results: dict[torch.dtype, dict[str, Any]] = {}
    for dtype in (torch.float32, torch.float64):
        block = replace(parameters, **{n: p.detach().to(dtype) for n, p in vars(parameters).items()})
        converted = [m.to(dtype) for m in maps]
        moments, output = measured(converted, layout, dtype), torch.empty_like(converted[1])
        mix_branches(converted, moments, block, layout, NORM_GROUPS, output)
        grad_output = torch.ones_like(output) + torch.arange(CHANNELS)
        grads, _ = mix_branches_backward(grad_output, converted, moments, block, layout, NORM_GROUPS)
        results[dtype] = {"variance": moments.variance, "output": output, "gradient": torch.cat(grads, dim=1)}
    for name, expected in results[torch.float64].items():
        difference = (results[torch.float32][name] - expected).norm() / expected.norm()
        assert difference < 3e-7 * abs(mean), name


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("batch", [0, 2])
@every_pyramid
def test_gradients_of_the_coefficients_agree_with_autograd(shapes: Shapes, batch: int, bias: bool) -> None:
    layout, parameters = Layout(shapes), random_parameters(8, CHANNELS, bias=bias)
    moments = Moments(*(m.requires_grad_() for m in measured(random_maps(shapes, batch), layout, torch.float64)))
    coefficients = fold(moments, parameters, layout, NORM_GROUPS)
    grads = Coefficients(*(torch.randn_like(c) for c in coefficients))

    grad_moments, grad_parameters = fold_backward(moments, parameters, layout, NORM_GROUPS, grads)
    names = [name for name, grad in grad_parameters.items() if grad is not None]
    assert ("conv_bias" in names) == bias
    leaves = [*moments, *(getattr(parameters, name) for name in names)]
    expected = torch.autograd.grad(coefficients, leaves, grads)
    actual = [*grad_moments, *(grad_parameters[name] for name in names)]
    for found, wanted, name in zip(actual, expected, [*Moments._fields, *names], strict=True):
        assert_near(found, wanted, torch.float64, "gradient", name)


def test_gradients_of_parameters_come_in_their_own_dtype() -> None:
    layout = Layout(PYRAMIDS["three levels"])
    parameters = random_parameters(8, CHANNELS, torch.bfloat16)
    moments = measured(random_maps(layout.shapes, dtype=torch.float32), layout, torch.float32)
    grads = Coefficients(*(torch.ones_like(c) for c in fold(moments, parameters, layout, NORM_GROUPS)))
    grad_moments, grad_parameters = fold_backward(moments, parameters, layout, NORM_GROUPS, grads)
    assert {m.dtype for m in grad_moments} == {torch.float32}
    assert {g.dtype for g in grad_parameters.values() if g is not None} == {torch.bfloat16}
