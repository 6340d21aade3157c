"""DyHead blocks the way microsoft/DynamicHead's `DyConv.forward` goes about them: every step an operator of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from dyhead_kernels import BlockParameters
from dyhead_kernels.dyhead_block.layout import HIGH, LOW, MID
from dyhead_kernels.dyhead_block.parameters import OFFSETS
from torch import Tensor

from ..cases.case import Blocks, DeformConv
from ..work import NORM_GROUPS


def step_by_step(deform_conv: DeformConv) -> Blocks:
    """The chain with this deformable convolution in it."""

    def blocks(levels: Sequence[Tensor], parameters: Sequence[BlockParameters]) -> list[Tensor]:
        levels = list(levels)
        for own in parameters:
            levels = _block(deform_conv, levels, own)
        return levels

    return blocks


def _block(deform_conv: DeformConv, levels: Sequence[Tensor], parameters: BlockParameters) -> list[Tensor]:
    def branch(which: int, source: Tensor, offset: Tensor, mask: Tensor, stride: int = 1) -> Tensor:
        assert parameters.conv_bias is not None
        weight, bias = parameters.conv_weight[which], parameters.conv_bias[which]
        convolved = deform_conv(source, offset, mask, weight, bias, stride)
        return F.group_norm(convolved, NORM_GROUPS, parameters.norm_weight[which], parameters.norm_bias[which])

    outputs = []
    for index, level in enumerate(levels):
        offset_mask = F.conv2d(level, parameters.offset_weight, parameters.offset_bias, padding=1)
        offset, mask = offset_mask[:, :OFFSETS], offset_mask[:, OFFSETS:].sigmoid()
        maps = [branch(MID, level, offset, mask)]
        if index > 0:
            maps.append(branch(LOW, levels[index - 1], offset, mask, stride=2))
        if index < len(levels) - 1:
            coarser = levels[index + 1]
            high = branch(HIGH, coarser, _read_flat(offset, coarser), _read_flat(mask, coarser))
            maps.append(F.interpolate(high, level.shape[2:], mode="bilinear", align_corners=True))
        attention = [_scale_logit(features, parameters) for features in maps]
        weights = F.relu6(torch.stack(attention) + 3) / 6
        outputs.append(_dynamic_relu((torch.stack(maps) * weights).mean(dim=0), parameters))
    return outputs


def _read_flat(maps: Tensor, coarser: Tensor) -> Tensor:
    """The raw buffer of a level's offsets or masks read with the coarser level's height and width."""
    height, width = coarser.shape[2:]
    return maps.flatten(1)[:, : maps.shape[1] * height * width].unflatten(1, (-1, height, width))


def _scale_logit(features: Tensor, parameters: BlockParameters) -> Tensor:
    pooled = F.adaptive_avg_pool2d(features, 1)
    return F.conv2d(pooled, parameters.scale_weight.view(1, -1, 1, 1), parameters.scale_bias).relu()


def _dynamic_relu(features: Tensor, parameters: BlockParameters) -> Tensor:
    pooled = F.adaptive_avg_pool2d(features, 1).flatten(1)
    hidden = F.linear(pooled, parameters.relu_weight1, parameters.relu_bias1).relu()
    theta = F.relu6(F.linear(hidden, parameters.relu_weight2, parameters.relu_bias2) + 3) / 6
    a1, b1, a2, b2 = theta[:, :, None, None].chunk(4, dim=1)
    return torch.maximum(features * (2 * a1) + (b1 - 0.5), features * (2 * a2 - 1) + (b2 - 0.5))
