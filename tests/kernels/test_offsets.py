"""Offsets and masks: the places that branches read them from, and the three forms of the step."""

from __future__ import annotations

import pytest
import torch
from dyhead_kernels.device_cache import DeviceCache
from dyhead_kernels.dyhead_block.layout import HIGH, BranchLayout
from dyhead_kernels.dyhead_block.offsets import reference
from dyhead_kernels.dyhead_block.offsets import torch as plain
from dyhead_kernels.dyhead_block.parameters import OFFSETS, OFFSETS_AND_MASKS, TAPS
from dyhead_kernels.dyhead_block.tables import BlockTables, block_tables
from dyhead_kernels.launch import tuning

from tests.kernels.block_cases import in_float64, random_parameters, random_pyramid, tiles
from tests.kernels.tolerances import relative_error

SHAPES = ((9, 6), (5, 3), (3, 2))


def test_offsets_of_a_branch_stay_within_their_image() -> None:
    for mode in ("flat", "crop", "resize"):
        plan = BlockTables(BranchLayout(SHAPES), mode, DeviceCache(torch.device("meta")))
        for (branch, level), segment in zip(plan.branch_levels, plan.segments.maps, strict=True):
            height, width = segment.height, segment.width
            last = (height - 1) * segment.offset_line + width - 1
            assert segment.offset_start + (OFFSETS - 1) * segment.offset_channel + last < segment.mask_start
            assert segment.mask_start + (TAPS - 1) * segment.offset_channel + last < plan.offset_mask_size
            if branch != HIGH:
                assert segment.offset_start == OFFSETS_AND_MASKS * plan.starts[level]
            assert segment.grad_mask_start + TAPS * height * width <= plan.branch_offset_mask_size


def test_the_three_forms_make_the_same_offsets_and_masks(triton_device: torch.device) -> None:
    from dyhead_kernels.dyhead_block.offsets import triton

    layout = BranchLayout(SHAPES)
    pyramid, parameters = in_float64(random_pyramid(SHAPES, batch=1), random_parameters())
    expected = [torch.cat(reference.offsets(level, parameters), dim=1) for level in pyramid.levels()]
    values = pyramid.values.detach().float().to(triton_device)
    single = type(parameters)(*(t.detach().float().to(triton_device) for t in vars(parameters).values()))

    packed = values.new_empty(*values.shape[:2], OFFSETS_AND_MASKS)
    plain.forward(values, single, layout, packed)
    with tuning.overriding(tiles(128, 8)):
        flat = triton.forward(block_tables(triton_device, layout, "crop"), values, single)
    for wanted, start, end in zip(expected, layout.starts, layout.starts[1:], strict=False):
        level = wanted.detach().flatten(2)
        assert relative_error(packed[:, start:end].transpose(1, 2), level) < 1e-6
        assert relative_error(flat[:, OFFSETS_AND_MASKS * start : OFFSETS_AND_MASKS * end].view_as(level), level) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_gradients_of_the_convolution_are_exact_in_every_dtype(dtype: torch.dtype, triton_device: torch.device) -> None:
    """Two images, several parts, runs over lines' ends, and gradients past what a float16 can hold."""
    from dyhead_kernels.dyhead_block.offsets import triton

    layout, channels, images = BranchLayout(((5, 7), (3, 4), (1, 1))), 20, 2
    values = torch.randn(images, layout.starts[-1], channels).to(triton_device, dtype)
    weight = 1e-3 * torch.randn(OFFSETS_AND_MASKS, channels, 3, 3).to(triton_device)
    grad = 1e5 * torch.randn(images, OFFSETS_AND_MASKS * layout.starts[-1]).to(triton_device)
    plan = block_tables(triton_device, layout, "flat")
    with tuning.overriding(tiles(16, 4, BLOCK_O=128, PARTS=3)):
        grad_weight = triton.weight_backward(plan, grad, values)
        grad_values = triton.values_backward(plan, grad, values, weight, torch.zeros_like(values, dtype=torch.float32))

    exact_weight, exact_values = torch.zeros_like(weight).double().cpu(), []
    for (height, width), start, end in zip(layout.shapes, layout.starts, layout.starts[1:], strict=False):
        maps = values[:, start:end].double().cpu().transpose(1, 2).unflatten(2, (height, width))
        own = (
            grad[:, OFFSETS_AND_MASKS * start : OFFSETS_AND_MASKS * end].double().cpu().view(images, -1, height, width)
        )
        needs = [True, True, False]
        grad_maps, part, _ = torch.ops.aten.convolution_backward(
            own, maps, weight.double().cpu(), None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, needs
        )
        exact_weight += part
        exact_values.append(grad_maps.flatten(2).transpose(1, 2))
    assert relative_error(grad_weight, exact_weight) < 1e-5
    # Rounded to the same number but where the exact one lies between two: products rounded once differ by 2e-3.
    exact = torch.cat(exact_values, dim=1).to(dtype)
    assert relative_error(grad_values, exact) < (1e-5 if dtype == torch.float32 else 1e-3)


@pytest.mark.parametrize("mode", ["flat", "crop", "resize"])
def test_the_transpose_of_reading_is_its_gradient(mode: str) -> None:
    offset, mask = (torch.randn(2, n, 7, 5, dtype=torch.float64, requires_grad=True) for n in (OFFSETS, TAPS))
    read = reference.high_branch_offsets(offset, mask, (4, 3), mode)
    grads = [torch.randn_like(each) for each in read]
    found = plain.high_branch_offsets_backward(grads[0], grads[1], (7, 5), mode)
    for each, expected in zip(found, torch.autograd.grad(read, (offset, mask), grads), strict=True):
        torch.testing.assert_close(each, expected)
