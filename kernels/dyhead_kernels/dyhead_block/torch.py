"""One DyHead block in plain PyTorch, fast on CPUs: three sampled convolutions over all levels at once, then one mix."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dyhead_kernels.dyhead_block.layout import BRANCHES, HIGH, LOW, MID, Layout
from dyhead_kernels.dyhead_block.mix import mix_branches
from dyhead_kernels.dyhead_block.offset_modes import high_branch_steering
from dyhead_kernels.dyhead_block.parameters import BlockParameters, OffsetMode
from dyhead_kernels.precision import matmul_dtype, sampling_dtype, to_common_dtype
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
    """Offsets (N, P, 9, 2) and masks (N, P, 9) of the branches high, mid and low, in the dtype of sampling."""
    dtype = sampling_dtype(pyramid.values)
    values, weight, bias = to_common_dtype(pyramid.values, parameters.offset_weight, parameters.offset_bias)
    mid, high = [], []
    for level, features in enumerate(Pyramid(values, pyramid.shapes).levels()):
        maps = F.conv2d(features, weight, bias, padding=1).to(dtype)
        maps = torch.cat([maps[:, :18], maps[:, 18:].sigmoid()], dim=1)
        mid.append(maps)
        if layout.has(HIGH, level):
            size = pyramid.shapes[layout.output(HIGH, level)]
            high.append(torch.cat(high_branch_steering(maps[:, :18], maps[:, 18:], size, offset_mode), dim=1))
    per_branch = {HIGH: high, MID: mid, LOW: mid[1:]}
    empty = mid[0].new_empty(len(mid[0]), 0, 27)
    packed = [torch.cat([empty, *(m.flatten(2).transpose(1, 2) for m in per_branch[b])], dim=1) for b in BRANCHES]
    return [(maps[..., :18].unflatten(-1, (9, 2)), maps[..., 18:]) for maps in packed]
