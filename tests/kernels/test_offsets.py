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


@pytest.mark.parametrize("mode", ["flat", "crop", "resize"])
def test_the_transpose_of_reading_is_its_gradient(mode: str) -> None:
    offset, mask = (torch.randn(2, n, 7, 5, dtype=torch.float64, requires_grad=True) for n in (OFFSETS, TAPS))
    read = reference.high_branch_offsets(offset, mask, (4, 3), mode)
    grads = [torch.randn_like(each) for each in read]
    found = plain.high_branch_offsets_backward(grads[0], grads[1], (7, 5), mode)
    for each, expected in zip(found, torch.autograd.grad(read, (offset, mask), grads), strict=True):
        torch.testing.assert_close(each, expected)
