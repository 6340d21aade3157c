"""The block of the pyramid form as a module."""

from __future__ import annotations

import copy

import pytest
import torch
from dyhead_kernels import Pyramid

from dyzoo.dyhead.block import DyHeadBlock


def fresh() -> tuple[DyHeadBlock, Pyramid]:
    torch.manual_seed(0)
    block = DyHeadBlock(16, 32)
    torch.nn.init.normal_(block.offset_weight, std=0.05)
    return block, Pyramid.from_levels([torch.randn(1, 16, size, size + 1) for size in (6, 3)])


def test_it_goes_to_channels_last_memory_as_every_module_does() -> None:
    block, pyramid = fresh()
    with torch.no_grad():
        before = block(pyramid).values
        moved = copy.deepcopy(block).to(memory_format=torch.channels_last)
        assert moved.conv_weight.shape == block.conv_weight.shape
        assert moved.conv_weight[0].is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(moved(pyramid).values, before)
    grads = [torch.autograd.grad(each(pyramid).values.sum(), each.conv_weight)[0] for each in (block, moved)]
    assert torch.equal(*grads)


@pytest.mark.parametrize("change", [torch.nn.Module.double, torch.nn.Module.half, lambda block: block.to("meta")])
def test_other_moves_are_as_for_every_module(change: object) -> None:
    block, _ = fresh()
    shapes = {name: value.shape for name, value in block.named_parameters()}
    moved = change(block)  # type: ignore[operator]
    assert {name: value.shape for name, value in moved.named_parameters()} == shapes
    assert len({(value.dtype, value.device) for value in moved.parameters()}) == 1
    assert all(isinstance(value, torch.nn.Parameter) and value.is_leaf for value in moved.parameters())


def test_memory_is_shared_between_processes() -> None:
    block, _ = fresh()
    block.share_memory()
    assert all(value.is_shared() for value in block.parameters())
