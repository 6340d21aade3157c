"""One DyHead block step by step: any floating dtype, any device, differentiable."""

from __future__ import annotations

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


def dyhead_block(pyramid: Pyramid, parameters: BlockParameters, offset_mode: OffsetMode, norm_groups: int) -> Pyramid:
    """The chain of microsoft/DynamicHead's `DyConv.forward`; shapes as in `op.dyhead_block`, unchecked.

    Computes in the common dtype of its arguments, autocast or not.
    """
    values, *tensors = to_common_dtype(pyramid.values, *vars(parameters).values())
    parameters = BlockParameters(*tensors)
    levels = Pyramid(values, pyramid.shapes).levels()
    outputs = []
    with torch.autocast(values.device.type, enabled=False):
        for index, level in enumerate(levels):
            offset, mask = offsets(level, parameters)

            maps = [_branch(MID, level, offset, mask, 1, parameters, norm_groups)]
            if index > 0:
                maps.append(_branch(LOW, levels[index - 1], offset, mask, 2, parameters, norm_groups))
            if index < len(levels) - 1:
                high_offset, high_mask = high_branch_offsets(offset, mask, pyramid.shapes[index + 1], offset_mode)
                high = _branch(HIGH, levels[index + 1], high_offset, high_mask, 1, parameters, norm_groups)
                maps.append(upsample(high, pyramid.shapes[index]))

            outputs.append(mix(maps, parameters))
    return Pyramid.from_levels(outputs)


def _branch(
    branch: int, input: Tensor, offset: Tensor, mask: Tensor, stride: int, parameters: BlockParameters, norm_groups: int
) -> Tensor:
    """Deformable convolution and GroupNorm."""
    bias = None if parameters.conv_bias is None else parameters.conv_bias[branch]
    convolved = modulated_deform_conv2d(
        input, offset, parameters.conv_weight[branch], bias, (stride, stride), (1, 1), (1, 1), mask
    )
    return group_norm(convolved, branch, parameters, norm_groups)
