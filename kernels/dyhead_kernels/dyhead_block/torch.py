"""One DyHead block in plain PyTorch, fast on CPUs: three sampled convolutions over all levels at once, then one mix."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dyhead_kernels.dyhead_block.layout import BRANCHES, HIGH, LOW, MID, Layout
from dyhead_kernels.dyhead_block.mix import mix_branches
from dyhead_kernels.dyhead_block.offset_modes import high_branch_steering
from dyhead_kernels.dyhead_block.parameters import BlockParameters, OffsetMode
from dyhead_kernels.precision import matmul_dtype, sampling_dtype
from dyhead_kernels.pyramid import Pyramid
from dyhead_kernels.sampled_conv import sampled_conv


def dyhead_block(pyramid: Pyramid, parameters: BlockParameters, offset_mode: OffsetMode, norm_groups: int) -> Pyramid:
    """Shapes as in `op.dyhead_block`, unchecked."""
    layout = Layout(pyramid.shapes)
    values = pyramid.values
    dtype = matmul_dtype(values, parameters.conv_weight)
    steering = _steering(pyramid, parameters, offset_mode, layout)
    convolved = []
    for branch in BRANCHES:
        offset, mask = steering[branch]
        matrix = parameters.conv_weight[branch].permute(0, 2, 3, 1).flatten(1)
        grid = layout.grid(branch, offset.dtype, offset.device)
        convolved.append(sampled_conv(values, offset, mask, matrix, grid, dtype))
    return Pyramid(mix_branches(convolved, parameters, layout, norm_groups), pyramid.shapes)


def _steering(
    pyramid: Pyramid, parameters: BlockParameters, offset_mode: OffsetMode, layout: Layout
) -> list[tuple[Tensor, Tensor]]:
    """Offsets (N, P, 9, 2) and masks (N, P, 9) of the branches high, mid and low, in the dtype of sampling.

    The offset convolution stays in float32 under autocast: offsets rounded to bfloat16 move the sampling positions, and
    a block's gradients with them by a tenth.
    """
    dtype = sampling_dtype(pyramid.values, parameters.conv_weight)
    weight, bias = parameters.offset_weight.to(dtype), parameters.offset_bias.to(dtype)
    with torch.autocast(pyramid.values.device.type, enabled=False):
        levels = Pyramid(pyramid.values.to(dtype), pyramid.shapes).levels()
        steering = Pyramid.from_levels([F.conv2d(level, weight, bias, padding=1) for level in levels])
    offset = Pyramid(steering.values[..., :18], pyramid.shapes)
    mask = Pyramid(steering.values[..., 18:].sigmoid(), pyramid.shapes)

    high = [(offset.values[:, :0], mask.values[:, :0])]
    for level in layout.levels[:-1]:
        maps = high_branch_steering(offset.level(level), mask.level(level), pyramid.shapes[level + 1], offset_mode)
        high.append((maps[0].flatten(2).transpose(1, 2), maps[1].flatten(2).transpose(1, 2)))
    high_offset, high_mask = (torch.cat(parts, dim=1) for parts in zip(*high, strict=True))
    coarser = slice(steering.starts[1], None)
    branches = {
        HIGH: (high_offset, high_mask),
        MID: (offset.values, mask.values),
        LOW: (offset.values[:, coarser], mask.values[:, coarser]),
    }
    return [(branches[branch][0].unflatten(-1, (9, 2)), branches[branch][1]) for branch in BRANCHES]
