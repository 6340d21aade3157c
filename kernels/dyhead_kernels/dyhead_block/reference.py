"""One DyHead block step by step: any floating dtype, any device, differentiable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..deform_conv.reference import modulated_deform_conv2d
from ..precision import to_common_dtype
from ..pyramid import Pyramid
from .attention.reference import group_norm
from .layout import HIGH, LOW, MID
from .mix.reference import mix, upsample
from .offsets.reference import high_branch_offsets, offsets
from .parameters import BlockParameters, OffsetMode


class BranchMap(NamedTuple):
    """A branch's map for a level, before scale attention, and where its deformable convolution sampled."""

    features: Tensor  # (N, C, H, W) on the grid of the level
    offset: Tensor  # (N, 18, h, w) on the grid of the convolution, pairs (dy, dx) in pixels of the level it samples
    mask: Tensor  # (N, 9, h, w) in 0..1


def dyhead_block(pyramid: Pyramid, parameters: BlockParameters, offset_mode: OffsetMode, norm_groups: int) -> Pyramid:
    """The chain of microsoft/DynamicHead's `DyConv.forward`; shapes as in `op.dyhead_block`, unchecked.

    Computes in the common dtype of its arguments, autocast or not.
    """
    values, *tensors = to_common_dtype(pyramid.values, *vars(parameters).values())
    parameters = BlockParameters(*tensors)
    levels = Pyramid(values, pyramid.shapes).levels()
    outputs = []
    with torch.autocast(values.device.type, enabled=False):
        for index in range(len(levels)):
            branches = branch_maps(levels, index, parameters, offset_mode, norm_groups)
            outputs.append(mix([branch.features for branch in branches.values()], parameters))
    return Pyramid.from_levels(outputs)


def branch_maps(
    levels: Sequence[Tensor], index: int, parameters: BlockParameters, offset_mode: OffsetMode, norm_groups: int
) -> dict[int, BranchMap]:
    """The map of each branch that there is for level `index` of maps (N, C_in, H, W), finest first."""
    level = levels[index]
    offset, mask = offsets(level, parameters)

    maps = {MID: _branch(MID, level, offset, mask, 1, parameters, norm_groups)}
    if index > 0:
        maps[LOW] = _branch(LOW, levels[index - 1], offset, mask, 2, parameters, norm_groups)
    if index < len(levels) - 1:
        coarser = levels[index + 1]
        size = (coarser.shape[2], coarser.shape[3])
        high_offset, high_mask = high_branch_offsets(offset, mask, size, offset_mode)
        high = _branch(HIGH, coarser, high_offset, high_mask, 1, parameters, norm_groups)
        maps[HIGH] = high._replace(features=upsample(high.features, (level.shape[2], level.shape[3])))
    return maps


def _branch(
    branch: int, input: Tensor, offset: Tensor, mask: Tensor, stride: int, parameters: BlockParameters, norm_groups: int
) -> BranchMap:
    """Deformable convolution and GroupNorm, on the grid of the convolution."""
    bias = None if parameters.conv_bias is None else parameters.conv_bias[branch]
    convolved = modulated_deform_conv2d(
        input, offset, parameters.conv_weight[branch], bias, (stride, stride), (1, 1), (1, 1), mask
    )
    return BranchMap(group_norm(convolved, branch, parameters, norm_groups), offset, mask)
