"""The compiled moments and mix: against PyTorch in float64, on any number of threads, and what they leave alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from dyhead_kernels import backends
from dyhead_kernels.dyhead_block import native
from dyhead_kernels.dyhead_block.attention import torch as attention
from dyhead_kernels.dyhead_block.attention.quantities import Coefficients, Moments
from dyhead_kernels.dyhead_block.layout import BranchLayout
from dyhead_kernels.dyhead_block.mix import torch as mix
from torch import Tensor

from tests.kernels.block_cases import PYRAMIDS, Shapes
from tests.kernels.tolerances import assert_as_good

every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
needs_compiler = pytest.mark.skipif(shutil.which(backends.compiler_name()) is None, reason="no C++ compiler")
WIDE: Shapes = ((33, 41), (17, 20), (9, 1), (1, 1))  # several pieces of rows, a line and a point


def random_case(shapes: Shapes, channels: int, images: int, dtype: torch.dtype) -> tuple[list[Tensor], Coefficients]:
    """Maps in that dtype and coefficients in float32."""
    torch.manual_seed(3)
    positions = sum(h * w for h, w in shapes)
    coarser = positions - shapes[0][0] * shapes[0][1]
    maps = [2 + torch.randn(images, rows, channels) for rows in (coarser, positions, coarser)]
    sizes = [(3, images, len(shapes), channels), *[(images, len(shapes), channels)] * 5]
    return [each.to(dtype) for each in maps], Coefficients(*map(torch.randn, sizes))


def everything(maps: list[Tensor], coefficients: Coefficients, layout: BranchLayout) -> dict[str, Tensor]:
    """The moments and the output."""
    images, _, channels = maps[1].shape
    shape = (3, images, len(layout.shapes), channels)
    moments = Moments(*(torch.full(shape, float("nan"), dtype=coefficients.gain.dtype) for _ in Moments._fields))
    attention.measure(maps, layout, moments)
    output = torch.full_like(maps[1], float("nan"))
    mix.forward(maps, moments, coefficients, layout, output)
    return {**moments._asdict(), "output": output}


@needs_compiler
@every_dtype
@pytest.mark.parametrize("channels", [1, 12, 70])
@pytest.mark.parametrize("shapes", [*PYRAMIDS.values(), WIDE], ids=[*PYRAMIDS, "wide"])
def test_is_as_near_to_float64_as_pytorch(
    shapes: Shapes, channels: int, dtype: torch.dtype, request: pytest.FixtureRequest
) -> None:
    layout = BranchLayout(shapes)
    maps, coefficients = random_case(shapes, channels, 2, dtype)
    assert native.serves(maps, *coefficients)
    actual = everything(maps, coefficients, layout)
    request.getfixturevalue("plain_pytorch")
    stepwise = everything(maps, coefficients, layout)
    exact = everything([each.double() for each in maps], Coefficients(*(c.double() for c in coefficients)), layout)
    assert_as_good({"output": actual.pop("output")}, stepwise, {"output": exact.pop("output")}, dtype)
    assert_as_good(actual, stepwise, exact, torch.float32)


@needs_compiler
@every_dtype
def test_any_number_of_threads_gives_the_same_bits(dtype: torch.dtype) -> None:
    layout = BranchLayout(WIDE)
    maps, coefficients = random_case(WIDE, 67, 2, dtype)
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(everything(maps, coefficients, layout))
    for other in found[1:]:
        assert all(torch.equal(found[0][name], value) for name, value in other.items())


@needs_compiler
@every_dtype
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_reaches_the_output(value: float, dtype: torch.dtype, request: pytest.FixtureRequest) -> None:
    layout = BranchLayout(WIDE)
    maps, coefficients = random_case(WIDE, 12, 1, dtype)
    maps[1][0, 5, 3] = value
    found = everything(maps, coefficients, layout)
    request.getfixturevalue("plain_pytorch")
    expected = everything(maps, coefficients, layout)
    for name, wanted in expected.items():
        assert torch.equal(found[name].isfinite(), wanted.isfinite()), name
    assert not found["output"].isfinite().all()


@needs_compiler
def test_bfloat16_is_rounded_as_pytorch_rounds_it() -> None:
    """Bit by bit, infinities, numbers below the smallest normal one and what is halfway between two included."""
    layout = BranchLayout(((8, 8192),))
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    mid = bits.view(torch.bfloat16).view(1, -1, 1)
    ones, zeros = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
    gain = torch.full((3, 1, 1, 1), 1 + 2.0**-8)  # a number of 8 binary digits times this one is halfway, or not quite
    coefficients = Coefficients(gain, zeros, ones, zeros, ones, zeros)
    output = torch.empty_like(mid)
    native.mix([mid[:, :0], mid, mid[:, :0]], torch.zeros(3, 1, 1, 1), coefficients, layout, output)
    expected = (mid.float() * gain[0]).bfloat16()
    assert torch.equal(output.isnan(), expected.isnan())
    assert torch.equal(output[~expected.isnan()], expected[~expected.isnan()])


@pytest.mark.parametrize("change", ["float64", "float16", "strided", "empty", "mixed", "no library"])
def test_other_maps_are_left_to_pytorch(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    maps, _ = random_case(WIDE, 12, 1, torch.float32)
    if change in ("float64", "float16"):
        maps = [each.to(getattr(torch, change)) for each in maps]
    elif change == "mixed":
        maps[2] = maps[2].bfloat16()
    elif change == "strided":
        maps[0] = maps[0].transpose(1, 2).contiguous().transpose(1, 2)
    elif change == "empty":
        maps = [each[:0] for each in maps]
    else:
        monkeypatch.setattr(native, "SOURCE", Path("absent.cpp"))
    assert not native.serves(maps)
