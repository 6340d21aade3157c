"""Modulated deformable convolution as a Triton kernel, against the float64 reference; on a GPU or interpreted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dyhead_kernels import modulated_deform_conv2d
from dyhead_kernels.launch import tuning
from torch import Tensor

from tests.kernels.conv_cases import CASES, Case, forward_and_gradients
from tests.kernels.tolerances import assert_as_good

pytest.importorskip("triton")

TRITON_CASES = {
    **CASES,
    "channels no power of two": Case(channels=20, out_channels=36, batch=1, size=(6, 5)),
    "several blocks of channels": Case(channels=40, out_channels=40, batch=1, size=(4, 5)),
    "several tiles": Case(channels=16, out_channels=16, batch=1, size=(11, 13)),
    "one tap": Case(channels=16, out_channels=16, batch=1, size=(4, 5), kernel=(1, 1), padding=(0, 0)),
    "whole blocks": Case(channels=32, out_channels=16, batch=1, size=(4, 5)),
    "empty batch": Case(batch=0),
}
SMALL_BLOCKS = {
    name: {"any": {"BLOCK_P": 16, "TILE_W": 4, "BLOCK_C": 16, "BLOCK_O": 16, "num_warps": 4}}
    for name in ("deform_conv_forward", "deform_conv_backward", "deform_conv_weight_backward")
}


def compare(case: Case, dtype: torch.dtype, device: torch.device, **drawing: Any) -> None:
    """Output and gradients of the Triton form, of the reference in the same dtype, and of that in float64."""
    tensors = {
        name: None if t is None else t.detach().to(device, dtype).requires_grad_()
        for name, t in case.tensors(torch.float64, **drawing).items()
    }
    doubles = {name: None if t is None else t.detach().double().requires_grad_() for name, t in tensors.items()}
    actual = forward_and_gradients(modulated_deform_conv2d, tensors, **case.geometry, backend="triton")
    stepwise = forward_and_gradients(modulated_deform_conv2d, tensors, **case.geometry, backend="reference")
    exact = forward_and_gradients(modulated_deform_conv2d, doubles, **case.geometry, backend="reference")
    assert_as_good(actual, stepwise, exact, dtype)


@pytest.mark.parametrize("case", TRITON_CASES.values(), ids=TRITON_CASES)
def test_float32_is_as_good_as_the_reference(
    case: Case, triton_device: torch.device, poisoned_allocations: None
) -> None:
    compare(case, torch.float32, triton_device)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["plain", "channels no power of two", "one tap", "whole blocks"])
def test_halves_are_as_good_as_the_reference(name: str, dtype: torch.dtype, triton_device: torch.device) -> None:
    compare(TRITON_CASES[name], dtype, triton_device)


@pytest.mark.parametrize("name", ["channels no power of two", "both groups"])
def test_any_block_sizes_give_the_same(name: str, triton_device: torch.device) -> None:
    with tuning.overriding(SMALL_BLOCKS):
        compare(TRITON_CASES[name], torch.float32, triton_device)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_halves_in_several_blocks_of_a_tap_are_as_good(dtype: torch.dtype, triton_device: torch.device) -> None:
    with tuning.overriding(SMALL_BLOCKS):
        compare(TRITON_CASES["whole blocks"], dtype, triton_device)


def test_maps_may_begin_at_any_address(triton_device: torch.device) -> None:
    """Also at one where no pair of bfloat16 may be read at once."""
    tensors = {
        name: t.detach().to(triton_device, torch.bfloat16)
        for name, t in TRITON_CASES["whole blocks"].tensors().items()
        if t is not None
    }
    expected = modulated_deform_conv2d(**tensors, padding=1, backend="triton")
    input = tensors["input"].permute(0, 2, 3, 1)  # channels last, so that it is not copied
    shifted = input.new_empty(input.numel() + 1)[1:].view(input.shape).copy_(input)
    tensors["input"] = shifted.permute(0, 3, 1, 2)
    assert torch.equal(modulated_deform_conv2d(**tensors, padding=1, backend="triton"), expected)


def test_offsets_far_outside(triton_device: torch.device) -> None:
    compare(Case(batch=1), torch.float32, triton_device, offset_scale=50.0)


def test_offsets_may_be_of_another_dtype(triton_device: torch.device) -> None:
    tensors = {name: t.detach().to(triton_device) for name, t in CASES["plain"].tensors().items() if t is not None}
    mixed = {name: t.half() if name in ("input", "weight", "bias") else t for name, t in tensors.items()}
    for t in mixed.values():
        t.requires_grad_()
    found = forward_and_gradients(modulated_deform_conv2d, mixed, padding=1, backend="triton")
    assert {name: found[name].dtype for name in ("output", "input", "offset")} == {
        "output": torch.float16,
        "input": torch.float16,
        "offset": torch.float64,
    }


def test_positions_that_are_not_finite_stay_where_they_are(triton_device: torch.device) -> None:
    tensors = {
        name: t.detach().to(triton_device) for name, t in Case(batch=1).tensors(torch.float32).items() if t is not None
    }
    clean = modulated_deform_conv2d(**tensors, padding=1, backend="triton")
    tensors["offset"][0, 0, 0, 0] = float("nan")
    tensors["offset"][0, 1, 0, 1] = float("inf")
    tensors["offset"][0, 1, 0, 2] = 1e30
    spoilt = modulated_deform_conv2d(**tensors, padding=1, backend="triton")
    assert spoilt[0, :, 0, 0].isnan().all()
    assert spoilt[0, :, 0, 1].isnan().all()
    assert spoilt[0, :, 0, 2].isfinite().all()
    assert torch.equal(spoilt[0, :, 1:], clean[0, :, 1:])


@pytest.mark.parametrize("frozen", ["input", "offset", "weight", "bias", "mask"])
def test_each_gradient_is_the_same_without_another(frozen: str, triton_device: torch.device) -> None:
    case = Case(batch=1, size=(4, 5))
    tensors = {name: t.to(triton_device) for name, t in case.tensors(torch.float32).items() if t is not None}
    tensors = {name: t.detach().requires_grad_() for name, t in tensors.items()}
    every = forward_and_gradients(modulated_deform_conv2d, dict(tensors), padding=1, backend="triton")
    tensors[frozen] = tensors[frozen].detach()
    others = forward_and_gradients(modulated_deform_conv2d, dict(tensors), padding=1, backend="triton")
    for name, gradient in others.items():
        torch.testing.assert_close(gradient, every[name], rtol=1e-5, atol=1e-5)


class TestDeterminism:
    """With PyTorch's deterministic algorithms on, sums of gradients do not depend on the order."""

    @pytest.fixture(autouse=True)
    def _deterministic(self, poisoned_memory: None) -> None:
        """That fixture turns them on, and fills fresh memory with NaN."""

    @pytest.mark.parametrize("name", ["plain", "both groups", "empty batch"])
    def test_as_good_as_the_reference(self, name: str, triton_device: torch.device) -> None:
        compare(TRITON_CASES[name], torch.float32, triton_device)

    @pytest.mark.usefixtures("products_in_one_order")
    def test_tiles_in_any_order_give_the_same_bits(self, triton_device: torch.device) -> None:
        """Tiles of other sizes add the same columns in another order. Each column is one sum either way."""
        case = Case(batch=1, channels=16, out_channels=16, size=(9, 8))
        tensors = {
            name: t.detach().to(triton_device) for name, t in case.tensors(torch.float32).items() if t is not None
        }
        tensors["input"].requires_grad_()
        found = []
        for width in (2, 8):
            table = {"any": {"BLOCK_P": 16, "TILE_W": width, "BLOCK_C": 16, "BLOCK_O": 16, "num_warps": 4}}
            with tuning.overriding({"deform_conv_backward_fixed_point": table}):
                found.append(forward_and_gradients(modulated_deform_conv2d, tensors, padding=1, backend="triton"))
        assert torch.equal(found[0]["input"], found[1]["input"])

    def test_what_is_not_finite_shows(self, triton_device: torch.device) -> None:
        tensors = {
            name: t.detach().to(triton_device)
            for name, t in Case(batch=1).tensors(torch.float32).items()
            if t is not None
        }
        tensors["input"].requires_grad_()
        output = modulated_deform_conv2d(**tensors, padding=1, backend="triton")
        grad_output = torch.ones_like(output)
        grad_output[0, 0, 0, 0] = float("inf")
        (gradient,) = torch.autograd.grad(output, tensors["input"], grad_output)
        assert not gradient.isfinite().any()


def test_large_and_small_gradients_add_up_in_fixed_point(triton_device: torch.device, poisoned_memory: None) -> None:
    """Nine orders of magnitude between the gradients of two images: none overflows, none is lost."""
    case = Case(size=(4, 4))
    tensors = {name: t.detach().to(triton_device) for name, t in case.tensors(torch.float32).items() if t is not None}

    def gradient(function_tensors: dict[str, Tensor], backend: str) -> Tensor:
        leaf = function_tensors["input"].detach().requires_grad_()
        output = modulated_deform_conv2d(**{**function_tensors, "input": leaf}, padding=1, backend=backend)
        scale = torch.tensor([1e6, 1e-3], dtype=output.dtype, device=output.device).view(2, 1, 1, 1)
        return torch.autograd.grad(output, leaf, torch.ones_like(output) * scale)[0]

    actual, exact = gradient(tensors, "triton"), gradient({n: t.double() for n, t in tensors.items()}, "reference")
    for image in range(2):
        torch.testing.assert_close(
            actual[image].double(), exact[image], rtol=1e-5, atol=1e-5 * float(exact[image].abs().max())
        )
