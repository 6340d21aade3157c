"""Gradients of maps added up in windows: where they are used; every corner is added once, inside or outside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from dyhead_kernels import modulated_deform_conv2d
from dyhead_kernels.deform_conv import triton as single
from dyhead_kernels.deform_conv.packed.triton import Convolution
from dyhead_kernels.deform_conv.packed.windows import windows_by_stride
from dyhead_kernels.device_cache import DeviceCache, cached_on_device
from dyhead_kernels.launch import tuning
from dyhead_kernels.launch.launching import recording
from dyhead_kernels.launch.tables import Maps, Segment, Tables

from tests.kernels.conv_cases import Case, forward_and_gradients
from tests.kernels.launch_cases import recorded_launches
from tests.kernels.tolerances import assert_as_good

WINDOW_KERNEL = "deform_conv_window_backward"
SMALL = Case(batch=1, channels=16, out_channels=16, size=(9, 11))
CASES = {
    "several tiles, odd sizes": replace(SMALL, size=(9, 13)),
    "one pixel": replace(SMALL, size=(1, 1)),
    "stride": replace(SMALL, stride=(2, 3), size=(9, 13)),
    "dilation, wide padding": replace(SMALL, dilation=(2, 1), padding=(3, 2)),
    "large kernel": replace(SMALL, kernel=(5, 3), padding=(2, 1)),
    "no mask, batch of 2": replace(SMALL, batch=2, masked=False, biased=False, size=(5, 6)),
    "both groups": replace(SMALL, channels=64, out_channels=6, groups=2, offset_groups=4, size=(4, 5)),
    "channels no power of two": replace(SMALL, channels=20, out_channels=36, size=(6, 5)),
    "empty batch": replace(SMALL, batch=0),
}


@pytest.fixture(autouse=True)
def _windowed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Windows in every dtype, but for tests of the default."""
    if "default" in request.node.name:
        yield
        return
    shipped = tuning.load_table(tuning.DEFAULT)
    table = {
        kernel: {kind: {**parameters, "WINDOWED": 1} for kind, parameters in entries.items()}
        for kernel, entries in shipped.items()
        if "window" in kernel
    }
    with tuning.overriding(table):
        yield


def leaves(case: Case, dtype: torch.dtype, device: torch.device, **drawing: Any) -> dict[str, Tensor | None]:
    tensors = case.tensors(torch.float64, **drawing)
    return {name: None if t is None else t.detach().to(device, dtype).requires_grad_() for name, t in tensors.items()}


def backward_launches(case: Case, *needs: bool, dtype: torch.dtype = torch.float32) -> list[str]:
    """Names of the launches of a backward pass."""
    tensors = case.tensors(dtype)
    input, offset, weight, mask = (
        None if (t := tensors[name]) is None else t.detach().to("meta")
        for name in ("input", "offset", "weight", "mask")
    )
    assert input is not None
    assert offset is not None
    assert weight is not None
    grad_output = torch.empty(case.batch, case.out_channels, *offset.shape[2:], dtype=dtype, device="meta")
    with recording() as launches:
        single.backward(grad_output, input, offset, weight, None, mask, *case.geometry.values(), needs)  # type: ignore[arg-type]
    return [each.name for each in launches]


def compare(tensors: dict[str, Tensor | None], case: Case, dtype: torch.dtype) -> None:
    doubles = {name: None if t is None else t.detach().double().requires_grad_() for name, t in tensors.items()}
    actual = forward_and_gradients(modulated_deform_conv2d, tensors, **case.geometry, backend="triton")
    stepwise = forward_and_gradients(modulated_deform_conv2d, tensors, **case.geometry, backend="reference")
    exact = forward_and_gradients(modulated_deform_conv2d, doubles, **case.geometry, backend="reference")
    assert_as_good(actual, stepwise, exact, dtype)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_float32_is_as_good_as_the_reference(
    case: Case, triton_device: torch.device, poisoned_allocations: None
) -> None:
    """Offsets of 2.5 pixels: most corners are in the windows, and some outside."""
    if case.batch:
        assert WINDOW_KERNEL in backward_launches(case, True, True, False, False, case.masked)
    compare(leaves(case, torch.float32, triton_device, offset_scale=2.5), case, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["several tiles, odd sizes", "stride"])
def test_halves_are_as_good_as_the_reference(name: str, dtype: torch.dtype, triton_device: torch.device) -> None:
    """Factors of the windows' products are rounded to the maps' dtype."""
    compare(leaves(CASES[name], dtype, triton_device), CASES[name], dtype)


@pytest.mark.parametrize("scale", [0.0, 1e30])
def test_all_corners_in_the_windows_and_none(scale: float, triton_device: torch.device) -> None:
    case = replace(SMALL, size=(9, 5), padding=(2, 3))
    compare(leaves(case, torch.float32, triton_device, offset_scale=scale), case, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("stride", [(1, 1), (2, 2)], ids=str)
@pytest.mark.parametrize("deterministic", [False, True], ids=["floats", "fixed point"])
def test_every_corner_is_added_once(
    deterministic: bool, stride: tuple[int, int], dtype: torch.dtype, triton_device: torch.device
) -> None:
    """Half pixels and small whole numbers: every product and sum is exact, in any order, or it is wrong."""
    case = replace(SMALL, size=(11, 18), stride=stride, out_channels=1, masked=False, biased=False)
    tensors = leaves(case, dtype, triton_device, offset_scale=8.0)
    offset, weight = tensors["offset"], tensors["weight"]
    assert offset is not None
    assert weight is not None
    tensors["offset"] = ((2 * offset.detach()).round() / 2).requires_grad_()
    tensors["weight"] = weight.detach().sign().requires_grad_()

    def gradient(precision: torch.dtype, backend: str) -> Tensor:
        cast = {name: None if t is None else t.detach().to(precision) for name, t in tensors.items()}
        map_ = cast["input"] = cast["input"].requires_grad_()  # type: ignore[union-attr]
        output = modulated_deform_conv2d(**cast, **case.geometry, backend=backend)
        return torch.autograd.grad(output, map_, torch.ones_like(output))[0].double()

    torch.use_deterministic_algorithms(deterministic)
    try:
        actual = gradient(dtype, "triton")
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(actual, gradient(torch.float64, "reference"))


def test_positions_that_are_not_finite_add_nothing(triton_device: torch.device) -> None:
    """As many NaN and infinite offsets as there may be: other samples of the tile keep their gradients."""
    tensors = leaves(SMALL, torch.float32, triton_device)
    offset, mask = tensors["offset"], tensors["mask"]
    assert offset is not None
    assert mask is not None
    broken = torch.rand_like(mask.detach()) < 0.3
    values = torch.tensor([float("nan"), float("inf"), -float("inf")], device=triton_device)
    spoilt = offset.detach().unflatten(1, (-1, 2)).clone()
    spoilt[..., 0, :, :][broken] = values[torch.randint(3, (int(broken.sum()),))]
    masked = {**tensors, "mask": mask.detach() * ~broken}
    tensors["offset"] = spoilt.flatten(1, 2)

    def gradient(leaves: dict[str, Tensor | None]) -> Tensor:
        output = modulated_deform_conv2d(**leaves, padding=1, backend="triton")
        return torch.autograd.grad(output, leaves["input"], torch.ones_like(output))[0]

    torch.testing.assert_close(gradient(tensors), gradient(masked), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("poisoned_memory", "products_in_one_order")
def test_tiles_in_any_order_give_the_same_bits(triton_device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """In fixed point: sums of a window have one order, and sums of windows need none."""
    case = replace(SMALL, size=(9, 5))
    tensors = leaves(case, torch.float32, triton_device, offset_scale=3.0)
    make = Maps._tables

    def backward(maps: Maps, *arguments: Any) -> Tables:
        made = make(maps, *arguments)
        return replace(made, tiles=made.tiles.flip(0).contiguous())

    found = []
    for tables in (make, backward):
        monkeypatch.setattr(Maps, "_tables", tables)
        monkeypatch.setattr(single, "_one_map", cached_on_device(1)(single._one_map._function))
        found.append(forward_and_gradients(modulated_deform_conv2d, tensors, padding=1, backend="triton")["input"])
    assert torch.equal(*found)


@pytest.mark.parametrize(
    "case",
    [
        replace(SMALL, dilation=(8, 8), padding=(8, 8)),  # taps too far apart for a window
        replace(SMALL, groups=4),  # four channels share samples and weights
        replace(SMALL, stride=(5, 5), size=(20, 20)),  # as outputs are
    ],
)
def test_other_convolutions_are_added_corner_by_corner(case: Case) -> None:
    assert backward_launches(case, True, True, False, False, True) == ["deform_conv_backward"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_by_default_there_are_windows_where_sums_are_counted(dtype: torch.dtype) -> None:
    """The time model: else the products cost more than the atomics that they spare. Tuning tries both."""
    needs = (True, True, False, False, True)
    assert WINDOW_KERNEL not in backward_launches(SMALL, *needs, dtype=dtype)
    torch.use_deterministic_algorithms(True)
    try:
        assert WINDOW_KERNEL in backward_launches(SMALL, *needs, dtype=dtype)
    finally:
        torch.use_deterministic_algorithms(False)


def test_maps_that_need_no_gradient_need_no_windows() -> None:
    assert backward_launches(SMALL, False, True, False, False, True) == ["deform_conv_backward"]


def test_a_block_has_windows_for_each_of_its_strides() -> None:
    windows = [each.constants["WINDOWS"] for each in recorded_launches() if each.name == WINDOW_KERNEL]
    tiles = [(each.tile_height, each.tile_width) for each in windows]
    assert len(tiles) == 2
    assert tiles[0] > tiles[1]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("size", "dilation"), [(3, 1), (5, 1), (3, 2), (1, 1)])
def test_windows_hold_every_offset_of_a_pixel(stride: int, size: int, dilation: int) -> None:
    conv = Convolution(16, 16, kernel=(size, size), dilation=(dilation, dilation))
    maps = Maps(
        (Segment(40, 40, 0, 1600, 0, 200, 200, stride_y=stride, stride_x=stride),), DeviceCache(torch.device("cpu"))
    )
    ((_, windows),) = windows_by_stride(conv, maps, (8, 8), (16, 16))
    for side, window in ((windows.tile_height, windows.height), (windows.tile_width, windows.width)):
        last = (side - 1) * stride + (size - 1) * dilation
        first_pixel = -((window - (last + 2) + 1) // 2)
        assert first_pixel <= -1
        assert first_pixel + window - 1 >= last + 1
