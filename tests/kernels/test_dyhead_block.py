"""A DyHead block over a pyramid: truth, the fast form against it, odd pyramids, errors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from dyhead_kernels import BlockParameters, Pyramid, dyhead_block
from torch import Tensor

from tests.kernels.block_cases import (
    PYRAMIDS,
    THREE_LEVELS,
    Shapes,
    assert_all_near,
    every_mode,
    every_pyramid,
    forward_and_gradients,
    in_float64,
    random_parameters,
    random_pyramid,
)
from tests.kernels.oracles import ModuleBlock
from tests.kernels.tolerances import assert_near


def by_modules(pyramid: Pyramid, parameters: BlockParameters, offset_mode: str, norm_groups: int) -> Pyramid:
    return Pyramid.from_levels(ModuleBlock(parameters, offset_mode, norm_groups)(pyramid.levels()))


@every_mode
@every_pyramid
def test_reference_and_its_gradients_agree_with_modules(shapes: Shapes, mode: str) -> None:
    pyramid, parameters = random_pyramid(shapes), random_parameters()
    options = {"offset_mode": mode, "norm_groups": 4}
    expected = forward_and_gradients(pyramid, parameters, by_modules, **options)
    actual = forward_and_gradients(pyramid, parameters, **options, backend="reference")
    assert_all_near(actual, expected, torch.float64)


@every_mode
@every_pyramid
def test_fast_form_agrees_with_reference(shapes: Shapes, mode: str) -> None:
    pyramid, parameters = random_pyramid(shapes), random_parameters()
    options = {"offset_mode": mode, "norm_groups": 4}
    expected = forward_and_gradients(pyramid, parameters, **options, backend="reference")
    assert_all_near(forward_and_gradients(pyramid, parameters, **options, backend="torch"), expected, torch.float64)


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_batches_with_and_without_bias(batch: int, bias: bool) -> None:
    pyramid, parameters = random_pyramid(THREE_LEVELS, batch=batch), random_parameters(bias=bias)
    options = {"offset_mode": "resize", "norm_groups": 4}
    expected = forward_and_gradients(pyramid, parameters, **options, backend="reference")
    assert_all_near(forward_and_gradients(pyramid, parameters, **options, backend="torch"), expected, torch.float64)


@every_mode
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_fast_form_in_low_precision(dtype: torch.dtype, mode: str) -> None:
    pyramid, parameters = random_pyramid(THREE_LEVELS, dtype=dtype), random_parameters(dtype=dtype)
    exact = in_float64(pyramid, parameters)
    options = {"offset_mode": mode, "norm_groups": 4}
    expected = forward_and_gradients(*exact, **options, backend="reference")
    actual = forward_and_gradients(pyramid, parameters, **options, backend="torch")
    assert all(tensor.dtype == dtype for tensor in actual.values())
    assert_all_near(actual, expected, dtype)


@pytest.mark.parametrize("input_dtype", [torch.float32, torch.bfloat16], ids=str)
def test_fast_form_under_autocast(input_dtype: torch.dtype) -> None:
    pyramid = random_pyramid(THREE_LEVELS, dtype=input_dtype)
    parameters = random_parameters(dtype=torch.float32)
    exact = in_float64(pyramid, parameters)
    options = {"offset_mode": "resize", "norm_groups": 4}
    expected = forward_and_gradients(*exact, **options, backend="reference")
    with torch.autocast("cpu", torch.bfloat16):
        actual = forward_and_gradients(pyramid, parameters, **options, backend="torch")
    assert actual["output"].dtype == torch.bfloat16
    assert actual["pyramid"].dtype == input_dtype
    assert actual["conv_weight"].dtype == torch.float32
    assert_all_near(actual, expected, torch.bfloat16)


def test_reference_ignores_autocast() -> None:
    pyramid, parameters = random_pyramid(THREE_LEVELS, dtype=torch.float32), random_parameters(dtype=torch.float32)
    plain = dyhead_block(pyramid, parameters, offset_mode="crop", norm_groups=4, backend="reference")
    with torch.autocast("cpu", torch.bfloat16):
        output = dyhead_block(pyramid, parameters, offset_mode="crop", norm_groups=4, backend="reference")
    assert torch.equal(output.values, plain.values)


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_gradients_agree_with_finite_differences(backend: str) -> None:
    shapes = ((3, 5), (2, 3), (1, 2))
    pyramid, parameters = random_pyramid(shapes, channels=4, batch=1), random_parameters(4, 8)
    names = list(vars(parameters))

    def function(values: Tensor, *tensors: Tensor) -> Tensor:
        block = BlockParameters(**dict(zip(names, tensors, strict=True)))
        return dyhead_block(Pyramid(values, shapes), block, offset_mode="resize", norm_groups=2, backend=backend).values

    assert torch.autograd.gradcheck(function, [pyramid.values, *vars(parameters).values()], fast_mode=True)


@pytest.mark.parametrize("name", [*vars(random_parameters()), "pyramid"])
def test_each_gradient_can_be_asked_for_alone(name: str) -> None:
    pyramid, parameters = random_pyramid(THREE_LEVELS), random_parameters()
    options = {"offset_mode": "resize", "norm_groups": 4}
    expected = forward_and_gradients(pyramid, parameters, **options, backend="reference")[name]
    leaves = {"pyramid": pyramid.values, **vars(parameters)}
    alone = {n: leaf.detach().requires_grad_(n == name) for n, leaf in leaves.items()}
    values = alone["pyramid"]
    block = BlockParameters(**{n: leaf for n, leaf in alone.items() if n != "pyramid"})
    output = dyhead_block(Pyramid(values, THREE_LEVELS), block, **options, backend="torch").values
    generator = torch.Generator().manual_seed(11)
    grad_output = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    (actual,) = torch.autograd.grad(output, alone[name], grad_output)
    assert_near(actual, expected, torch.float64, "block gradient", name)


def test_six_blocks_in_a_row_stay_near_the_reference() -> None:
    blocks = [random_parameters(16, 16, torch.float32) for _ in range(6)]
    actual = random_pyramid(THREE_LEVELS, channels=16, dtype=torch.float32)
    expected = replace(actual, values=actual.values.double())
    for block in blocks:
        expected = dyhead_block(expected, in_float64(expected, block)[1], offset_mode="resize", backend="reference")
        actual = dyhead_block(actual, block, offset_mode="resize", backend="torch")
    # Rounding grows from block to block, through the sampling positions above all.
    assert (actual.values - expected.values).abs().max() < 1e-3 * expected.values.abs().max()


@every_mode
def test_offsets_far_outside_the_image(mode: str) -> None:
    pyramid, parameters = random_pyramid(THREE_LEVELS), random_parameters()
    bias = parameters.offset_bias.detach().clone()
    bias[:18] = torch.tensor([1e3, -1e3]).repeat(9)
    parameters = replace(parameters, offset_bias=bias.requires_grad_())
    options = {"offset_mode": mode, "norm_groups": 4}
    expected = forward_and_gradients(pyramid, parameters, **options, backend="reference")
    actual = forward_and_gradients(pyramid, parameters, **options, backend="torch")
    assert not actual["conv_weight"].any()
    assert_all_near(actual, expected, torch.float64)


def test_maps_far_from_zero_keep_their_variance() -> None:
    pyramid, parameters = random_pyramid(THREE_LEVELS, dtype=torch.float32), random_parameters(dtype=torch.float32)
    pyramid = replace(pyramid, values=(pyramid.values.detach() + 30).requires_grad_())
    exact = in_float64(pyramid, parameters)
    options = {"offset_mode": "resize", "norm_groups": 4}
    expected = forward_and_gradients(*exact, **options, backend="reference")
    actual = forward_and_gradients(pyramid, parameters, **options, backend="torch")
    assert_near(actual["output"], expected["output"], torch.float32, "forward")


def test_memory_layout_does_not_matter() -> None:
    pyramid, parameters = random_pyramid(THREE_LEVELS), random_parameters()
    options = {"offset_mode": "resize", "norm_groups": 4}
    expected = forward_and_gradients(pyramid, parameters, **options, backend="reference")
    values = pyramid.values.detach().permute(2, 1, 0).contiguous().permute(2, 1, 0).requires_grad_()
    weight = (
        parameters.conv_weight.detach().to(torch.float64).permute(0, 4, 3, 2, 1).contiguous().permute(0, 4, 3, 2, 1)
    )
    strided = replace(parameters, conv_weight=weight.requires_grad_())
    for backend in ("reference", "torch"):
        actual = forward_and_gradients(replace(pyramid, values=values), strided, **options, backend=backend)
        assert_all_near(actual, expected, torch.float64)


@every_mode
@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("shapes", [PYRAMIDS["one pixel"], PYRAMIDS["five levels"]], ids=["one pixel", "five levels"])
def test_every_value_is_written(shapes: Shapes, mode: str) -> None:
    pyramid, parameters = random_pyramid(shapes, dtype=torch.float32), random_parameters(dtype=torch.float32)
    results = forward_and_gradients(pyramid, parameters, offset_mode=mode, norm_groups=4, backend="torch")
    for name, tensor in results.items():
        assert torch.isfinite(tensor).all(), name


@pytest.mark.usefixtures("small_chunks")
def test_many_small_chunks_give_the_same() -> None:
    pyramid, parameters = random_pyramid(THREE_LEVELS, dtype=torch.float32), random_parameters(dtype=torch.float32)
    exact = in_float64(pyramid, parameters)
    options = {"offset_mode": "resize", "norm_groups": 4}
    expected = forward_and_gradients(*exact, **options, backend="reference")
    assert_all_near(forward_and_gradients(pyramid, parameters, **options, backend="torch"), expected, torch.float32)


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_an_image_that_is_no_number_spoils_only_itself(backend: str) -> None:
    """Its offsets are none either, and are no addresses."""
    pyramid, parameters = random_pyramid(THREE_LEVELS), random_parameters()
    options = {"offset_mode": "resize", "norm_groups": 4, "backend": backend}
    with torch.no_grad():
        sound = dyhead_block(pyramid, parameters, **options).values
        pyramid.values[0] = float("nan")
        spoilt = dyhead_block(pyramid, parameters, **options).values
    assert spoilt[0].isnan().all()
    torch.testing.assert_close(spoilt[1], sound[1])


def test_training_after_inference_mode_at_the_same_shapes() -> None:
    pyramid, parameters = random_pyramid(((6, 14), (3, 7))), random_parameters()
    options = {"offset_mode": "resize", "norm_groups": 4}
    with torch.inference_mode():
        dyhead_block(pyramid, parameters, **options)
    dyhead_block(pyramid, parameters, **options).values.sum().backward()
    assert pyramid.values.grad.abs().sum() > 0


MISTAKES = {
    "level sizes": (
        {"shapes": ((4, 4), (3, 2))},
        r"level 1 of the pyramid is \(3, 2\), expected \(2, 2\): half of \(4, 4\), the level before it, rounded up",
    ),
    "no pixels": ({"shapes": ((4, 4), (0, 2))}, r"expected one level or more, each of one pixel or more"),
    "channels": (
        {"channels": 9},
        r"offset_weight is \(27, 8, 3, 3\), expected \(27, 9, 3, 3\): the pyramid has 9 channels",
    ),
    "norm groups": ({"norm_groups": 5}, r"norm_groups is 5, expected a divisor of the 12 output channels"),
    "offset mode": ({"offset_mode": "shrink"}, r"offset_mode is 'shrink', expected one of flat, crop, resize"),
    "backend": ({"backend": "cudnn"}, r"backend is 'cudnn', expected one of auto, reference, torch, triton"),
    "parameter shape": ({"norm_bias": torch.zeros(12)}, r"norm_bias is \(12,\), expected \(3, 12\)"),
    "parameter dimensions": ({"conv_weight": torch.zeros(12, 8, 3, 3)}, r"conv_weight is .*, expected 5 dimensions"),
}


@pytest.mark.parametrize(("changes", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    changes = dict(changes)
    pyramid = random_pyramid(
        changes.pop("shapes", THREE_LEVELS), channels=changes.pop("channels", 8), dtype=torch.float32
    )
    parameters = random_parameters(dtype=torch.float32)
    tensors = {name: changes.pop(name) for name in vars(parameters) if name in changes}
    options = {"offset_mode": "resize", "norm_groups": 4, **changes}
    with pytest.raises(ValueError, match=message):
        dyhead_block(pyramid, replace(parameters, **tensors), **options)


def test_whole_numbers_are_refused() -> None:
    pyramid, parameters = random_pyramid(THREE_LEVELS), random_parameters()
    with pytest.raises(TypeError, match=r"pyramid\.values is torch\.int64, expected a floating-point tensor"):
        dyhead_block(replace(pyramid, values=pyramid.values.long()), parameters, offset_mode="resize", norm_groups=4)
    with pytest.raises(TypeError, match=r"scale_bias is torch\.int64, expected a floating-point tensor"):
        dyhead_block(
            pyramid, replace(parameters, scale_bias=torch.zeros(1).long()), offset_mode="resize", norm_groups=4
        )
