"""Modulated deformable convolution: truth, the fast form against it, odd inputs, errors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torchvision
from dyhead_kernels import modulated_deform_conv2d
from torch import Tensor

from tests.kernels.conv_cases import CASES, Case, assert_all_near, every_case, forward_and_gradients, in_float64
from tests.kernels.oracles import deform_conv2d_by_loops
from tests.kernels.tolerances import assert_near


@every_case
def test_reference_agrees_with_nested_loops(case: Case) -> None:
    tensors = case.tensors()
    expected = deform_conv2d_by_loops(**tensors, **case.geometry)
    assert_near(
        modulated_deform_conv2d(**tensors, **case.geometry, backend="reference"), expected, torch.float64, "forward"
    )


@every_case
def test_reference_and_its_gradients_agree_with_torchvision(case: Case) -> None:
    tensors = case.tensors()
    expected = forward_and_gradients(torchvision.ops.deform_conv2d, tensors, **case.geometry)
    actual = forward_and_gradients(modulated_deform_conv2d, tensors, **case.geometry, backend="reference")
    assert_all_near(actual, expected, torch.float64)


@every_case
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_fast_form_agrees_with_reference(case: Case, dtype: torch.dtype) -> None:
    tensors = case.tensors(dtype)
    expected = forward_and_gradients(modulated_deform_conv2d, in_float64(tensors), **case.geometry, backend="reference")
    actual = forward_and_gradients(modulated_deform_conv2d, tensors, **case.geometry, backend="torch")
    assert all(tensor.dtype == dtype for tensor in actual.values())
    assert_all_near(actual, expected, dtype)


@pytest.mark.parametrize("input_dtype", [torch.float32, torch.bfloat16], ids=str)
def test_fast_form_under_autocast_multiplies_in_bfloat16_and_keeps_float32_positions(input_dtype: torch.dtype) -> None:
    tensors = Case(batch=1, size=(3, 300)).tensors(
        torch.float32
    )  # at column 300 a bfloat16 position would be off by a pixel
    tensors["input"] = tensors["input"].detach().to(input_dtype).requires_grad_()
    expected = forward_and_gradients(modulated_deform_conv2d, in_float64(tensors), padding=1, backend="reference")
    with torch.autocast("cpu", torch.bfloat16):
        actual = forward_and_gradients(modulated_deform_conv2d, tensors, padding=1, backend="torch")
    assert actual["output"].dtype == torch.bfloat16
    assert {name: g.dtype for name, g in actual.items() if name != "output"} == {n: t.dtype for n, t in tensors.items()}
    assert_all_near(actual, expected, torch.bfloat16)


def test_float64_is_left_alone_by_autocast() -> None:
    tensors = Case().tensors()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = [modulated_deform_conv2d(**tensors, padding=1, backend=b) for b in ("torch", "reference")]
    assert_near(outputs[0], outputs[1], torch.float64, "forward")


@every_case
@pytest.mark.usefixtures("small_chunks")
def test_many_small_chunks_give_the_same(case: Case) -> None:
    tensors = replace(case, size=(9, 11)).tensors(torch.float32)
    expected = forward_and_gradients(modulated_deform_conv2d, in_float64(tensors), **case.geometry, backend="reference")
    actual = forward_and_gradients(modulated_deform_conv2d, tensors, **case.geometry, backend="torch")
    assert_all_near(actual, expected, torch.float32)


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("name", ["plain", "no mask, no bias", "stride", "both groups"])
def test_gradients_agree_with_finite_differences(name: str, backend: str) -> None:
    case = replace(CASES[name], size=(4, 3) if name != "stride" else (5, 4), batch=1)
    tensors = case.tensors()
    # Finite differences must not step over a pixel's border, where the gradient jumps: keep clear of whole numbers.
    with torch.no_grad():
        whole = tensors["offset"].floor()
        tensors["offset"].copy_(whole + (tensors["offset"] - whole) * 0.8 + 0.1)
    names = [n for n, t in tensors.items() if t is not None]

    def function(*values: Tensor) -> Tensor:
        return modulated_deform_conv2d(**dict(zip(names, values, strict=True)), **case.geometry, backend=backend)

    assert torch.autograd.gradcheck(function, [tensors[n] for n in names], fast_mode=True)


@pytest.mark.parametrize("wanted", ["input", "offset", "mask", "weight", "bias"])
def test_each_gradient_can_be_asked_for_alone(wanted: str) -> None:
    tensors = Case().tensors()
    expected = forward_and_gradients(modulated_deform_conv2d, tensors, padding=1, backend="reference")
    alone = {name: tensor.detach().requires_grad_(name == wanted) for name, tensor in tensors.items()}
    actual = forward_and_gradients(modulated_deform_conv2d, alone, padding=1, backend="torch")
    assert actual.keys() == {"output", wanted}
    assert_near(actual[wanted], expected[wanted], torch.float64, "gradient")


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("far", [30.0, -30.0, 3e9, -1e30])
def test_offsets_far_outside_the_image_leave_the_bias_and_no_gradient(far: float, backend: str) -> None:
    tensors = Case().tensors(torch.float32)
    tensors["offset"] = torch.full_like(tensors["offset"], far).requires_grad_()
    results = forward_and_gradients(modulated_deform_conv2d, tensors, padding=1, backend=backend)
    assert torch.equal(results["output"], tensors["bias"].view(-1, 1, 1).expand_as(results["output"]))
    for name in ("input", "offset", "mask", "weight"):
        assert not results[name].any(), name


def test_offsets_that_scatter_over_the_whole_image() -> None:
    tensors = Case(size=(20, 30)).tensors(torch.float32, offset_scale=15.0)
    expected = forward_and_gradients(modulated_deform_conv2d, in_float64(tensors), padding=1, backend="reference")
    assert_all_near(forward_and_gradients(modulated_deform_conv2d, tensors, padding=1), expected, torch.float32)


every_bad_offset = pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])


@pytest.mark.parametrize("backend", ["reference", "torch"])
@every_bad_offset
def test_an_offset_that_is_no_number_spoils_only_its_own_position(bad: float, backend: str) -> None:
    tensors = {name: t.detach() for name, t in Case().tensors(torch.float32).items()}
    sound = modulated_deform_conv2d(**tensors, padding=1, backend=backend)
    tensors["offset"][1, 4, 2, 3] = bad
    output = modulated_deform_conv2d(**tensors, padding=1, backend=backend)
    assert output[1, :, 2, 3].isnan().all()
    output[1, :, 2, 3] = sound[1, :, 2, 3]
    assert torch.equal(output, sound)


@every_bad_offset
def test_gradients_of_an_offset_that_is_no_number(bad: float) -> None:
    """The forms agree on which gradients it spoils, and on the others."""
    tensors = {name: t.detach() for name, t in Case().tensors(torch.float32).items()}
    tensors["offset"][1, 4, 2, 3] = bad
    for tensor in tensors.values():
        tensor.requires_grad_()
    found, expected = (
        forward_and_gradients(modulated_deform_conv2d, tensors, padding=1, backend=backend)
        for backend in ("torch", "reference")
    )
    assert expected["offset"].isnan().any()
    for name, value in expected.items():
        assert torch.equal(found[name].isnan(), value.isnan()), name
        kind = "forward" if name == "output" else "gradient"
        assert_near(found[name].nan_to_num(), value.nan_to_num(), torch.float32, kind, name)


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_empty_batch(backend: str) -> None:
    results = forward_and_gradients(modulated_deform_conv2d, Case(batch=0).tensors(), padding=1, backend=backend)
    assert results["output"].shape == (0, 6, 5, 7)
    assert not results["weight"].any()


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_memory_layout_does_not_matter(backend: str) -> None:
    tensors = Case().tensors(torch.float64)
    expected = forward_and_gradients(modulated_deform_conv2d, tensors, padding=1, backend="reference")
    strided = {
        "input": tensors["input"].detach().to(memory_format=torch.channels_last),
        "offset": torch.stack([tensors["offset"].detach()] * 2, dim=-1)[..., 1],
        "weight": tensors["weight"].detach().permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        "bias": tensors["bias"].detach().repeat_interleave(2)[::2],
        "mask": tensors["mask"].detach().transpose(2, 3).contiguous().transpose(2, 3),
    }
    strided = {name: tensor.requires_grad_() for name, tensor in strided.items()}
    actual = forward_and_gradients(modulated_deform_conv2d, strided, padding=1, backend=backend)
    assert_all_near(actual, expected, torch.float64)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("case", [Case(), Case(offset_groups=2, groups=2, stride=(2, 2)), Case(batch=0)], ids=str)
def test_every_value_is_written(case: Case) -> None:
    tensors = case.tensors(torch.float32)
    for name, tensor in forward_and_gradients(
        modulated_deform_conv2d, tensors, **case.geometry, backend="torch"
    ).items():
        assert torch.isfinite(tensor).all(), name


def test_training_after_inference_mode_at_the_same_shape() -> None:
    tensors = Case(size=(8, 6)).tensors()
    with torch.inference_mode():
        modulated_deform_conv2d(**tensors, padding=1)
    modulated_deform_conv2d(**tensors, padding=1).sum().backward()
    assert tensors["offset"].grad.abs().sum() > 0


def test_arguments_mean_what_they_mean_to_torchvision() -> None:
    input, offset, weight, bias, mask = (
        Case(size=(9, 9), stride=(2, 2), padding=(2, 2), dilation=(2, 2)).tensors().values()
    )
    expected = torchvision.ops.deform_conv2d(input, offset, weight, bias, 2, 2, 2, mask)
    assert_near(modulated_deform_conv2d(input, offset, weight, bias, 2, 2, 2, mask), expected, torch.float64, "forward")


MISTAKES = {
    "offset on the input grid": (
        {"offset": torch.zeros(2, 18, 5, 7), "stride": 2},
        r"offset is \(2, 18, 5, 7\), expected \(2, 18, 3, 4\): offsets live on the output grid",
    ),
    "offset channels": ({"offset": torch.zeros(2, 19, 5, 7)}, r"offset is .*, expected \(2, 18, 5, 7\)"),
    "offset groups": (
        {"offset": torch.zeros(2, 54, 5, 7), "mask": None},
        r"3 offset groups, expected a divisor of the 4 input channels",
    ),
    "mask": ({"mask": torch.zeros(2, 8, 5, 7)}, r"mask is \(2, 8, 5, 7\), expected \(2, 9, 5, 7\)"),
    "weight": (
        {"weight": torch.zeros(6, 3, 3, 3)},
        r"weight is \(6, 3, 3, 3\), expected \(C_out, 4 / groups, kh, kw\)",
    ),
    "bias": ({"bias": torch.zeros(5)}, r"bias is \(5,\), expected \(6,\)"),
    "input dimensions": ({"input": torch.zeros(4, 5, 7)}, r"input is \(4, 5, 7\), expected four dimensions"),
    "map below the kernel": ({"padding": 0, "dilation": 4}, r"expected a map no smaller than the kernel \(3, 3\)"),
    "stride": ({"stride": 0}, r"stride is 0, expected an integer or a pair of them, at least 1"),
    "padding": ({"padding": (1, 2, 3)}, r"padding is \(1, 2, 3\), expected an integer or a pair"),
    "backend": ({"backend": "cudnn"}, r"backend is 'cudnn', expected one of auto, reference, torch, triton"),
}


@pytest.mark.parametrize(("changes", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    arguments = {**Case().tensors(torch.float32), "padding": 1, **changes}
    with pytest.raises(ValueError, match=message):
        modulated_deform_conv2d(**arguments)


@pytest.mark.parametrize("name", ["input", "offset", "weight", "bias", "mask"])
def test_whole_numbers_are_refused(name: str) -> None:
    tensors = {n: t.detach() for n, t in Case().tensors(torch.float32).items()}
    tensors[name] = tensors[name].to(torch.int64)
    with pytest.raises(TypeError, match=rf"{name} is torch.int64, expected a floating-point tensor"):
        modulated_deform_conv2d(**tensors, padding=1)


def test_devices_must_agree() -> None:
    tensors = {n: t.detach() for n, t in Case().tensors(torch.float32).items()}
    with pytest.raises(TypeError, match="mask is on meta, expected cpu like the input"):
        modulated_deform_conv2d(**{**tensors, "mask": tensors["mask"].to("meta")}, padding=1)
