"""The compiled loops of the form for CPUs in bfloat16, with every kind of products that this CPU has."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from dyhead_kernels import Pyramid, backends, compiled, dyhead_block, modulated_deform_conv2d
from dyhead_kernels.deform_conv.packed import native
from dyhead_kernels.deform_conv.packed.native import Products
from dyhead_kernels.dyhead_block.layout import MID, BranchLayout

from tests.kernels.block_cases import THREE_LEVELS, random_parameters, random_pyramid
from tests.kernels.conv_cases import CASES, Case, assert_all_near, every_case, forward_and_gradients, in_float64
from tests.kernels.tolerances import assert_near

pytestmark = pytest.mark.skipif(shutil.which(backends.compiler_name()) is None, reason="no C++ compiler")

# None of these is a multiple of 2, 16 or 32, or just that.
WIDTHS = [(1, 1), (2, 33), (33, 2), (31, 16), (48, 65), (70, 67), (64, 32)]
WIDE = Case(channels=70, out_channels=67, size=(13, 17), batch=2)


@pytest.fixture(params=Products, ids=lambda products: products.name.lower())
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Products]:
    """A kind that bfloat16 is multiplied with in the test; calls of the library show that it was."""
    if not native.has_products(request.param):
        pytest.skip(f"this CPU has no bfloat16 products of the kind {request.param.name}")
    used = set()
    call = native._call
    monkeypatch.setattr(native, "bfloat16_products", lambda: request.param)
    monkeypatch.setattr(native, "_call", lambda name, *arguments: used.add(arguments[0]) or call(name, *arguments))
    yield request.param
    assert used == {request.param}


def test_the_quickest_products_are_there() -> None:
    assert native.has_products(native.bfloat16_products())
    if native.has_products(Products.TILES):
        assert native.bfloat16_products() is Products.TILES


@every_case
@pytest.mark.usefixtures("poisoned_memory")
def test_agrees_with_the_reference(case: Case, products: Products) -> None:
    tensors = case.tensors(torch.bfloat16)
    expected = forward_and_gradients(modulated_deform_conv2d, in_float64(tensors), **case.geometry, backend="reference")
    actual = forward_and_gradients(modulated_deform_conv2d, tensors, **case.geometry, backend="torch")
    assert all(tensor.dtype == torch.bfloat16 for tensor in actual.values())
    assert_all_near(actual, expected, torch.bfloat16)


@pytest.mark.parametrize(("channels", "out_channels"), WIDTHS)
@pytest.mark.usefixtures("poisoned_memory")
def test_any_number_of_channels(channels: int, out_channels: int, products: Products) -> None:
    tensors = Case(channels=channels, out_channels=out_channels, size=(9, 13)).tensors(torch.bfloat16)
    expected = forward_and_gradients(modulated_deform_conv2d, in_float64(tensors), padding=1, backend="reference")
    assert_all_near(forward_and_gradients(modulated_deform_conv2d, tensors, padding=1), expected, torch.bfloat16)


@pytest.mark.parametrize("offset_scale", [1.0, 20.0])
def test_many_tiles_chunks_blocks_and_parts_agree_with_the_reference(
    offset_scale: float, products: Products, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "CHUNK_BYTES", 1)
    monkeypatch.setattr(native, "BLOCK_CHANNELS", 32)
    monkeypatch.setattr(native, "LEAST_PART", 100)  # of 442 positions, so that a part has none of the blocks
    tensors = WIDE.tensors(torch.bfloat16, offset_scale)
    expected = forward_and_gradients(modulated_deform_conv2d, in_float64(tensors), padding=1, backend="reference")
    assert_all_near(forward_and_gradients(modulated_deform_conv2d, tensors, padding=1), expected, torch.bfloat16)


def test_any_number_of_threads_gives_the_same_bits(products: Products) -> None:
    tensors = WIDE.tensors(torch.bfloat16)
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(forward_and_gradients(modulated_deform_conv2d, tensors, padding=1))
    for other in found[1:]:
        for name, value in found[0].items():
            assert torch.equal(other[name], value), name


@pytest.mark.parametrize("wanted", ["input", "offset", "mask", "weight"])
def test_each_gradient_alone_is_that_of_all(wanted: str, products: Products) -> None:
    tensors = replace(WIDE, size=(5, 6)).tensors(torch.bfloat16)
    together = forward_and_gradients(modulated_deform_conv2d, tensors, padding=1)
    alone = {name: tensor.detach().requires_grad_(name == wanted) for name, tensor in tensors.items()}
    found = forward_and_gradients(modulated_deform_conv2d, alone, padding=1)
    assert torch.equal(found[wanted], together[wanted])


def test_maps_in_float32_under_autocast(products: Products) -> None:
    tensors = WIDE.tensors(torch.float32)
    expected = forward_and_gradients(modulated_deform_conv2d, in_float64(tensors), padding=1, backend="reference")
    with torch.autocast("cpu", torch.bfloat16):
        actual = forward_and_gradients(modulated_deform_conv2d, tensors, padding=1, backend="torch")
    assert actual["output"].dtype == torch.bfloat16
    assert all(actual[name].dtype == torch.float32 for name in tensors)
    assert_all_near(actual, expected, torch.bfloat16)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_an_offset_that_is_no_number_spoils_what_it_does_in_the_reference(bad: float, products: Products) -> None:
    tensors = {name: t.detach() for name, t in WIDE.tensors(torch.bfloat16).items()}
    tensors["offset"][1, 4, 2, 3] = bad
    for tensor in tensors.values():
        tensor.requires_grad_()
    found = forward_and_gradients(modulated_deform_conv2d, tensors, padding=1)
    expected = forward_and_gradients(modulated_deform_conv2d, in_float64(tensors), padding=1, backend="reference")
    assert expected["output"].isnan().any(dim=1).sum() == 1
    for name, value in expected.items():
        assert torch.equal(found[name].isnan(), value.isnan()), name
        kind = "forward" if name == "output" else "gradient"
        assert_near(found[name].nan_to_num(), value.nan_to_num(), torch.bfloat16, kind, name)


def test_a_mask_of_infinity_spoils_no_other_position(products: Products) -> None:
    """Channels are filled up with zeros, whose product with it would be no number."""
    tensors = {name: t.detach() for name, t in WIDE.tensors(torch.bfloat16).items()}
    sound = modulated_deform_conv2d(**tensors, padding=1)
    tensors["mask"][1, 4, 2, 3] = float("inf")
    output = modulated_deform_conv2d(**tensors, padding=1)
    assert not output[1, :, 2, 3].isfinite().any()
    output[1, :, 2, 3] = sound[1, :, 2, 3]
    assert torch.equal(output, sound)


def test_small_numbers_lose_no_digits(products: Products) -> None:
    """Only what is below float32's smallest normal number, 2**-126, may be taken for zero."""
    case = replace(CASES["no mask, no bias"], batch=1)
    tensors = {name: t.detach() for name, t in case.tensors(torch.bfloat16).items() if t is not None}
    plain = modulated_deform_conv2d(**tensors, padding=1)
    tensors["input"] *= 2.0**-90
    small = modulated_deform_conv2d(**tensors, padding=1)
    assert torch.equal(small.float() * 2.0**90, plain.float())


@pytest.mark.parametrize("empty", [{"batch": 0}, {"out_channels": 0}], ids=str)
def test_nothing_to_do(empty: dict[str, int]) -> None:
    tensors = replace(CASES["plain"], **empty).tensors(torch.bfloat16)
    found = forward_and_gradients(modulated_deform_conv2d, tensors, padding=1)
    expected = forward_and_gradients(modulated_deform_conv2d, tensors, padding=1, backend="reference")
    for name, value in expected.items():
        assert found[name].shape == value.shape
        assert not found[name].any()


@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("channels", "out_channels"), [(1, 1), (33, 27), (64, 40)])
@pytest.mark.usefixtures("poisoned_memory")
def test_an_ordinary_convolution_is_one_in_float32(
    weight_dtype: torch.dtype, channels: int, out_channels: int, products: Products
) -> None:
    layout = BranchLayout(((9, 7), (5, 4), (3, 2)))
    values = torch.randn(2, layout.starts[-1], channels).bfloat16()
    weight = torch.randn(out_channels, channels, 3, 3).to(weight_dtype)
    grid = layout.grid(MID, torch.float32, values.device)
    found = native.convolve(values.flatten(0, 1), 2, grid, weight.permute(0, 2, 3, 1).flatten(1), products)
    levels = Pyramid(values.double(), layout.shapes).levels()
    expected = [torch.nn.functional.conv2d(level, weight.double(), padding=1) for level in levels]
    assert_near(found, Pyramid.from_levels(expected).values, torch.float32, "forward")


def test_offsets_take_it_where_products_are_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    if not native.has_products(Products.TILES):
        pytest.skip("this CPU has no tiles")
    convolve, calls = native.convolve, []
    monkeypatch.setattr(native, "convolve", lambda *arguments: calls.append(1) or convolve(*arguments))
    pyramid, parameters = random_pyramid(THREE_LEVELS, dtype=torch.bfloat16), random_parameters(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        dyhead_block(pyramid, parameters, offset_mode="resize", norm_groups=4, backend="torch")
    assert calls == [1]
    dyhead_block(replace(pyramid, values=pyramid.values.float()), parameters, offset_mode="resize", norm_groups=4)
    assert calls == [1]


@every_case
@pytest.mark.usefixtures("plain_pytorch")
def test_plain_pytorch_agrees_too(case: Case) -> None:
    tensors = case.tensors(torch.bfloat16)
    expected = forward_and_gradients(modulated_deform_conv2d, in_float64(tensors), **case.geometry, backend="reference")
    actual = forward_and_gradients(modulated_deform_conv2d, tensors, **case.geometry, backend="torch")
    assert_all_near(actual, expected, torch.bfloat16)


def test_a_changed_header_is_compiled_again(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("sources")
    source, header = folder / "a.cpp", folder / "b.h"
    source.write_text('#include <cmath>\n#include "b.h"\n', encoding="utf-8")
    header.write_text('#include "a.cpp"\n', encoding="utf-8")  # in a circle: it ends all the same
    before = compiled._key(source, [backends.compiler_name()])
    header.write_text("int changed;\n", encoding="utf-8")
    assert compiled._key(source, [backends.compiler_name()]) != before
