"""One DyHead block step by step: any floating dtype, any device, differentiable."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from dyhead_kernels.deform_conv.reference import modulated_deform_conv2d
from dyhead_kernels.dyhead_block.offset_modes import high_branch_steering
from dyhead_kernels.dyhead_block.parameters import BlockParameters, OffsetMode
from dyhead_kernels.pyramid import Pyramid

GROUP_NORM_EPS = 1e-5
HIGH, MID, LOW = range(3)


def dyhead_block(
    pyramid: Pyramid, parameters: BlockParameters, offset_mode: OffsetMode, norm_groups: int
) -> Pyramid:
    """The chain of microsoft/DynamicHead's `DyConv.forward`; shapes as in `op.dyhead_block`, unchecked."""
    levels = pyramid.levels()
    outputs = []
    for index, level in enumerate(levels):
        size = (level.shape[2], level.shape[3])
        steering = F.conv2d(level, parameters.offset_weight, parameters.offset_bias, padding=1)
        offset, mask = steering[:, :18], steering[:, 18:].sigmoid()
        branch = partial(_branch, parameters=parameters, norm_groups=norm_groups)

        maps = [branch(MID, level, offset, mask, stride=1)]
        if index > 0:
            maps.append(branch(LOW, levels[index - 1], offset, mask, stride=2))
        if index < len(levels) - 1:
            coarser = levels[index + 1]
            coarser_size = (coarser.shape[2], coarser.shape[3])
            high = branch(HIGH, coarser, *high_branch_steering(offset, mask, coarser_size, offset_mode), stride=1)
            maps.append(F.interpolate(high, size, mode="bilinear", align_corners=True))

        mixed = torch.stack([scale_attention(m, parameters) * m for m in maps]).mean(dim=0)
        outputs.append(dynamic_relu(mixed, parameters))
    return Pyramid.from_levels(outputs)


def _branch(
    which: int, input: Tensor, offset: Tensor, mask: Tensor, stride: int, parameters: BlockParameters, norm_groups: int
) -> Tensor:
    bias = None if parameters.conv_bias is None else parameters.conv_bias[which]
    convolved = modulated_deform_conv2d(
        input, offset, parameters.conv_weight[which], bias, (stride, stride), (1, 1), (1, 1), mask
    )
    weight, bias = parameters.norm_weight[which], parameters.norm_bias[which]
    return F.group_norm(convolved, norm_groups, weight, bias, GROUP_NORM_EPS)


def hard_sigmoid(logits: Tensor) -> Tensor:
    """min(max(z + 3, 0), 6) / 6."""
    return F.relu6(logits + 3) / 6


def scale_attention(features: Tensor, parameters: BlockParameters) -> Tensor:
    """How much one whole map counts: (N, C, H, W) -> (N, 1, 1, 1) in 0..1."""
    pooled = features.mean(dim=(2, 3))
    return hard_sigmoid(F.relu(pooled @ parameters.scale_weight + parameters.scale_bias)).view(-1, 1, 1, 1)


def dynamic_relu(features: Tensor, parameters: BlockParameters) -> Tensor:
    """max of two lines per channel, steered by the pooled map (Chen et al., arXiv 2003.10027, variant B, K = 2)."""
    hidden = F.relu(F.linear(features.mean(dim=(2, 3)), parameters.relu_weight1, parameters.relu_bias1))
    theta = hard_sigmoid(F.linear(hidden, parameters.relu_weight2, parameters.relu_bias2))
    a1, b1, a2, b2 = theta[:, :, None, None].chunk(4, dim=1)
    return torch.maximum(features * (2 * (a1 - 0.5) + 1) + (b1 - 0.5), features * (2 * (a2 - 0.5)) + (b2 - 0.5))
