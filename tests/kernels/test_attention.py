"""Scale and task attention: moments of the raw convolutions, and the coefficients made of them."""

from __future__ import annotations

import pytest
import torch
from dyhead_kernels.dyhead_block.attention import torch as attention
from dyhead_kernels.dyhead_block.attention.quantities import COEFFICIENT_ROWS, Coefficients, Moments
from dyhead_kernels.dyhead_block.layout import BRANCHES, BranchLayout
from dyhead_kernels.dyhead_block.tables import block_tables
from dyhead_kernels.launch import tuning

from tests.kernels.block_cases import (
    PYRAMIDS,
    Shapes,
    every_pyramid,
    in_float64,
    random_parameters,
    random_pyramid,
    tiles,
)
from tests.kernels.mix_cases import CHANNELS, NORM_GROUPS, measured, random_maps
from tests.kernels.tolerances import assert_near, relative_error


@every_pyramid
def test_moments_are_those_of_the_maps(shapes: Shapes) -> None:
    layout, maps = BranchLayout(shapes), random_maps(shapes)
    moments = measured(maps, layout, torch.float64)
    views = layout.split(maps)
    for level in layout.levels:
        for branch in BRANCHES:
            rows = views.get((branch, level), torch.zeros(2, 1, CHANNELS, dtype=torch.float64))
            upsampled = layout.upsample(rows, level) if layout.output(branch, level) != level and rows.any() else rows
            mean = rows.mean(dim=1)
            expected = (mean, rows.var(dim=1, unbiased=False), upsampled.mean(dim=1) - mean)
            for found, wanted in zip(moments, expected, strict=True):
                torch.testing.assert_close(found[branch, :, level], wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("batch", [0, 2])
@every_pyramid
def test_gradients_of_the_coefficients_agree_with_autograd(shapes: Shapes, batch: int, bias: bool) -> None:
    layout, parameters = BranchLayout(shapes), random_parameters(8, CHANNELS, bias=bias)
    moments = Moments(*(m.requires_grad_() for m in measured(random_maps(shapes, batch), layout, torch.float64)))
    coefficients = attention.forward(moments, parameters, layout, NORM_GROUPS)
    grads = Coefficients(*(torch.randn_like(c) for c in coefficients))

    grad_moments, grad_parameters = attention.backward(moments, parameters, layout, NORM_GROUPS, grads)
    names = [name for name, grad in grad_parameters.items() if grad is not None]
    assert ("conv_bias" in names) == bias
    leaves = [*moments, *(getattr(parameters, name) for name in names)]
    # The mix takes the mean from the map, A (Y - M) + D: so much of the mean's gradient does not come through D.
    outside = (coefficients.gain.detach() * moments.mean).sum(dim=0)
    whole = coefficients._replace(shift=coefficients.shift - outside)
    expected = torch.autograd.grad(whole, leaves, grads)
    actual = [*grad_moments, *(grad_parameters[name] for name in names)]
    for found, wanted, name in zip(actual, expected, [*Moments._fields, *names], strict=True):
        assert_near(found, wanted, torch.float64, "gradient", name)


def test_gradients_of_parameters_come_in_their_own_dtype() -> None:
    layout = BranchLayout(PYRAMIDS["three levels"])
    parameters = random_parameters(8, CHANNELS, torch.bfloat16)
    moments = measured(random_maps(layout.shapes, dtype=torch.float32), layout, torch.float32)
    grads = Coefficients(*(torch.ones_like(c) for c in attention.forward(moments, parameters, layout, NORM_GROUPS)))
    grad_moments, grad_parameters = attention.backward(moments, parameters, layout, NORM_GROUPS, grads)
    assert {m.dtype for m in grad_moments} == {torch.float32}
    assert {g.dtype for g in grad_parameters.values() if g is not None} == {torch.bfloat16}


def test_the_triton_form_has_the_same_moments_and_coefficients(triton_device: torch.device) -> None:
    """Row by row under the same names, from the convolutions that it made itself."""
    from dyhead_kernels.dyhead_block import triton

    shapes = PYRAMIDS["two levels, odd"]
    pyramid, parameters = random_pyramid(shapes, batch=1), random_parameters(channels=CHANNELS)
    layout, plan = BranchLayout(shapes), block_tables(triton_device, BranchLayout(shapes), "flat")
    single = type(parameters)(*(t.detach().float().to(triton_device) for t in vars(parameters).values()))
    with tuning.overriding(tiles(128, 8)):
        values = pyramid.values.detach().float().to(triton_device)
        _, state = triton.forward(values, single, layout, "flat", NORM_GROUPS)
    found = triton.State(*state)

    rows = found.convolved.double().cpu().split([plan.coarse_rows, plan.packed_rows, plan.coarse_rows])
    moments = measured([each[None] for each in rows], layout, torch.float64)
    _, doubles = in_float64(pyramid, parameters)
    expected = attention.forward(moments, doubles, layout, NORM_GROUPS)
    for row, name in enumerate(Moments._fields):
        assert relative_error(found.moments[:, :, :, row].permute(2, 0, 1, 3), getattr(moments, name)) < 1e-5, name
    named = {"gain_high": 0, "gain_mid": 1, "gain_low": 2}
    for row, name in enumerate(COEFFICIENT_ROWS):
        wanted = expected.gain[named[name]] if name in named else getattr(expected, name)
        assert relative_error(found.coefficients[:, :, row], wanted.detach()) < 1e-5, name
