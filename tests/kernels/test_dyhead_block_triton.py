"""A DyHead block as Triton kernels, against the float64 reference; on a GPU or interpreted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from dyhead_kernels import BlockParameters, Pyramid, dyhead_block
from dyhead_kernels.launch import tuning

from tests.kernels.block_cases import (
    MODES,
    PYRAMIDS,
    THREE_LEVELS,
    Shapes,
    forward_and_gradients,
    in_float64,
    random_parameters,
    random_pyramid,
    tiles,
)
from tests.kernels.tolerances import assert_as_good

pytest.importorskip("triton")

TWO_LEVELS = PYRAMIDS["two levels, odd"]


@pytest.fixture(autouse=True)
def _few_tiles(triton_device: torch.device) -> Iterator[None]:
    """Interpreted programs are slow: as few of them as the small pyramids of these tests need."""
    if triton_device.type == "cuda":
        yield
    else:
        with tuning.overriding(tiles(128, 8)):
            yield


def on(
    device: torch.device, dtype: torch.dtype, pyramid: Pyramid, parameters: BlockParameters
) -> tuple[Pyramid, BlockParameters]:
    """The same values as leaves of another device and dtype."""
    values, *tensors = (
        None if t is None else t.detach().to(device, dtype).requires_grad_()
        for t in (pyramid.values, *vars(parameters).values())
    )
    return Pyramid(values, pyramid.shapes), BlockParameters(*tensors)


def compare(
    device: torch.device,
    pyramid: Pyramid,
    parameters: BlockParameters,
    dtype: torch.dtype = torch.float32,
    mode: str = "resize",
    norm_groups: int = 4,
) -> None:
    """Output and gradients of the Triton form, of the reference in the same dtype, and of that in float64."""
    pyramid, parameters = on(device, dtype, pyramid, parameters)
    options = {"offset_mode": mode, "norm_groups": norm_groups}
    actual = forward_and_gradients(pyramid, parameters, **options, backend="triton")
    stepwise = forward_and_gradients(pyramid, parameters, **options, backend="reference")
    exact = forward_and_gradients(*in_float64(pyramid, parameters), **options, backend="reference")
    assert_as_good(actual, stepwise, exact, dtype)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shapes", PYRAMIDS.values(), ids=PYRAMIDS)
def test_float32_is_as_good_as_the_reference(
    shapes: Shapes, mode: str, triton_device: torch.device, poisoned_allocations: None
) -> None:
    compare(triton_device, random_pyramid(shapes, batch=1), random_parameters(), mode=mode)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_halves_are_as_good_as_the_reference(dtype: torch.dtype, mode: str, triton_device: torch.device) -> None:
    compare(triton_device, random_pyramid(TWO_LEVELS, batch=1), random_parameters(), dtype, mode)


@pytest.mark.parametrize(
    ("in_channels", "channels", "groups"),
    [(16, 16, 16), (20, 12, 1), (8, 24, 24), (40, 48, 16), (16, 144, 3)],
)
def test_any_number_of_channels(in_channels: int, channels: int, groups: int, triton_device: torch.device) -> None:
    pyramid = random_pyramid(((4, 3), (2, 2)), in_channels, batch=1)
    compare(triton_device, pyramid, random_parameters(in_channels, channels), norm_groups=groups)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_batches(bias: bool, triton_device: torch.device) -> None:
    compare(triton_device, random_pyramid(TWO_LEVELS, batch=3), random_parameters(bias=bias))


def test_many_small_tiles_and_blocks_give_the_same(triton_device: torch.device) -> None:
    with tuning.overriding(tiles(16, 4, BLOCK_C=16, BLOCK_O=16)):
        compare(triton_device, random_pyramid(((9, 6), (5, 3)), 20, batch=1), random_parameters(20, 36), mode="flat")


@pytest.mark.parametrize("mode", MODES)
def test_offsets_far_outside(mode: str, triton_device: torch.device) -> None:
    parameters = random_parameters()
    parameters = replace(parameters, offset_bias=parameters.offset_bias.detach() * 40)
    compare(triton_device, random_pyramid(TWO_LEVELS, batch=1), parameters, mode=mode)


def test_empty_batch(triton_device: torch.device) -> None:
    pyramid, parameters = on(triton_device, torch.float32, random_pyramid(THREE_LEVELS, batch=0), random_parameters())
    found = forward_and_gradients(pyramid, parameters, offset_mode="resize", norm_groups=4, backend="triton")
    assert found["output"].shape == (0, pyramid.values.shape[1], 12)
    assert not any(tensor.any() for tensor in found.values())


def test_maps_far_from_zero_keep_their_variance(triton_device: torch.device) -> None:
    """The convolutions answer 1000 and a little: their mean takes most of float32's digits."""
    parameters = random_parameters(in_channels=8)
    weight = parameters.conv_weight.detach().clone()
    weight[:, :, 0, 1, 1] += 1000
    values = random_pyramid(THREE_LEVELS, batch=1).values.detach()
    values[..., 0] = 1
    parameters = replace(
        parameters,
        conv_weight=weight,
        offset_weight=torch.zeros_like(parameters.offset_weight),
        offset_bias=torch.zeros_like(parameters.offset_bias),
    )
    pyramid, parameters = on(triton_device, torch.float32, Pyramid(values, THREE_LEVELS), parameters)
    doubles = in_float64(pyramid, parameters)
    with torch.no_grad():
        found, stepwise, exact = (
            {"output": dyhead_block(*these, offset_mode="flat", norm_groups=12, backend=form).values}
            for these, form in (
                ((pyramid, parameters), "triton"),
                ((pyramid, parameters), "reference"),
                (doubles, "reference"),
            )
        )
    assert_as_good(found, stepwise, exact, torch.float32)


def test_memory_layout_does_not_matter(triton_device: torch.device) -> None:
    """Transposed and strided tensors, as autocast, channels-last modules and slices make them."""
    pyramid, parameters = on(triton_device, torch.float32, random_pyramid(TWO_LEVELS, batch=1), random_parameters())
    strided = Pyramid(pyramid.values.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_(), TWO_LEVELS)
    others = BlockParameters(
        *(
            t.detach().flatten(-1).t().contiguous().t().requires_grad_()
            if t.ndim == 2
            else t.detach().repeat_interleave(2, dim=-1)[..., ::2].requires_grad_()
            for t in vars(parameters).values()
        )
    )
    assert not any(t.is_contiguous() for t in vars(others).values() if t.numel() > 3)
    one = forward_and_gradients(pyramid, parameters, offset_mode="crop", norm_groups=4, backend="triton")
    other = forward_and_gradients(strided, others, offset_mode="crop", norm_groups=4, backend="triton")
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=1e-5, atol=1e-5)


def test_autocast_keeps_offsets_in_float32(triton_device: torch.device) -> None:
    """Under autocast the maps are bfloat16 and the parameters float32, as in training."""
    pyramid, parameters = on(triton_device, torch.float32, random_pyramid(TWO_LEVELS, batch=1), random_parameters())
    rounded = Pyramid(pyramid.values.detach().bfloat16().requires_grad_(), TWO_LEVELS)
    with torch.autocast(triton_device.type, dtype=torch.bfloat16):
        found = forward_and_gradients(rounded, parameters, offset_mode="flat", norm_groups=4, backend="triton")
        kept = forward_and_gradients(rounded, parameters, offset_mode="flat", norm_groups=4, backend="torch")
    exact = forward_and_gradients(
        *in_float64(rounded, parameters), offset_mode="flat", norm_groups=4, backend="reference"
    )
    assert found["output"].dtype == torch.bfloat16
    assert found["offset_weight"].dtype == torch.float32
    assert_as_good(found, kept, exact, torch.bfloat16)


@pytest.mark.parametrize("name", ["pyramid", "offset_weight", "conv_weight", "norm_weight"])
def test_each_gradient_can_be_asked_for_alone(name: str, triton_device: torch.device) -> None:
    pyramid, parameters = on(triton_device, torch.float32, random_pyramid(TWO_LEVELS, batch=1), random_parameters())
    every = forward_and_gradients(pyramid, parameters, offset_mode="resize", norm_groups=4, backend="triton")
    pyramid.values.requires_grad_(name == "pyramid")
    for parameter, tensor in vars(parameters).items():
        tensor.requires_grad_(parameter == name)
    output = dyhead_block(pyramid, parameters, offset_mode="resize", norm_groups=4, backend="triton").values
    generator = torch.Generator().manual_seed(11)
    grad_output = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
    leaf = pyramid.values if name == "pyramid" else getattr(parameters, name)
    torch.testing.assert_close(torch.autograd.grad(output, leaf, grad_output)[0], every[name], rtol=1e-5, atol=1e-6)


class TestDeterminism:
    """With PyTorch's deterministic algorithms on, sums of gradients do not depend on the order."""

    @pytest.fixture(autouse=True)
    def _deterministic(self, poisoned_memory: None) -> None:
        """That fixture turns them on, and fills fresh memory with NaN."""

    @pytest.mark.parametrize("mode", MODES)
    def test_as_good_as_the_reference(self, mode: str, triton_device: torch.device) -> None:
        compare(triton_device, random_pyramid(TWO_LEVELS, batch=1), random_parameters(), mode=mode)

    @pytest.mark.gpu
    def test_every_run_gives_the_same_bits(self) -> None:
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
        pyramid, parameters = on(
            torch.device("cuda"),
            torch.bfloat16,
            random_pyramid(((40, 56), (20, 28), (10, 14)), 64, batch=2),
            random_parameters(64, 64),
        )
        first, *others = (
            forward_and_gradients(pyramid, parameters, offset_mode="resize", backend="triton") for _ in range(5)
        )
        for other in others:
            for name, tensor in first.items():
                assert torch.equal(other[name], tensor), name
