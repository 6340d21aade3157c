"""PyTorch's counter knows what the operators cost."""

from __future__ import annotations

import pytest
import torch
from dyhead_kernels import BlockParameters, Pyramid, dyhead_block, modulated_deform_conv2d
from dyhead_kernels.dyhead_block.parameters import OFFSETS, parameter_shapes
from torch import Tensor
from torch.nn.functional import conv2d
from torch.utils.flop_counter import FlopCounterMode


def make_block(channels: int, device: str) -> BlockParameters:
    shapes = parameter_shapes(channels, channels, channels // 4)
    return BlockParameters(**{n: torch.zeros(s, device=device, requires_grad=True) for n, s in shapes.items()})


def counted(maps: list[Tensor], weights: list[Tensor]) -> int:
    """The count of PyTorch for 3x3 convolutions that keep the size."""
    with FlopCounterMode(display=False) as counter:
        for level, weight in zip(maps, weights, strict=True):
            conv2d(level, weight, padding=1)
    return counter.get_total_flops()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_deformable_convolution_costs_what_a_plain_one_does(device: str) -> None:
    maps, weight = torch.zeros(2, 8, 6, 5, device=device), torch.zeros(12, 8, 3, 3, device=device, requires_grad=True)
    offset = torch.zeros(2, OFFSETS, 6, 5, device=device)
    with FlopCounterMode(display=False) as counter:
        output = modulated_deform_conv2d(maps, offset, weight, padding=1)
    assert counter.get_total_flops() == counted([maps], [weight])
    with FlopCounterMode(display=False) as counter:
        output.sum().backward()
    assert counter.get_total_flops() == counted([maps], [weight])  # of the weight alone


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_block_costs_what_its_convolutions_do(device: str) -> None:
    channels, sizes = 16, ((8, 6), (4, 3), (2, 2))
    levels = [torch.zeros(2, channels, *size, device=device, requires_grad=True) for size in sizes]
    block = make_block(channels, device)
    offsets, branches = [block.offset_weight] * 3, [block.conv_weight[0]] * 3
    # mid on each level; high and low on the coarser grid of each two neighbours
    convolutions = counted(levels, offsets) + counted(levels, branches) + 2 * counted(levels[1:], branches[1:])
    relu = 2 * 2 * len(sizes) * (block.relu_weight1.numel() + block.relu_weight2.numel())
    with FlopCounterMode(display=False) as counter:
        output = dyhead_block(Pyramid.from_levels(levels), block, offset_mode="resize")
    assert counter.get_total_flops() == convolutions + relu
    with FlopCounterMode(display=False) as counter:
        output.values.sum().backward()
    assert counter.get_total_flops() == 2 * (convolutions + relu)
