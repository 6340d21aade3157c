"""One DyHead block step by step: any floating dtype, any device, differentiable."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..deform_conv.reference import modulated_deform_conv2d
from ..precision import to_common_dtype
from ..pyramid import Pyramid
from .layout import HIGH, LOW, MID
from .offsets.reference import high_branch_steering
from .parameters import BlockParameters, OffsetMode

GROUP_NORM_EPS = 1e-5


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
            steering = F.conv2d(level, parameters.offset_weight, parameters.offset_bias, padding=1)
            offset, mask = steering[:, :18], steering[:, 18:].sigmoid()

            maps = [_branch(MID, level, offset, mask, 1, parameters, norm_groups)]
            if index > 0:
                maps.append(_branch(LOW, levels[index - 1], offset, mask, 2, parameters, norm_groups))
            if index < len(levels) - 1:
                high_offset, high_mask = high_branch_steering(offset, mask, pyramid.shapes[index + 1], offset_mode)
                high = _branch(HIGH, levels[index + 1], high_offset, high_mask, 1, parameters, norm_groups)
                maps.append(F.interpolate(high, pyramid.shapes[index], mode="bilinear", align_corners=True))

            mixed = torch.stack([scale_attention(m, parameters) * m for m in maps]).mean(dim=0)
            outputs.append(dynamic_relu(mixed, parameters))
    return Pyramid.from_levels(outputs)


def _branch(
    branch: int, input: Tensor, offset: Tensor, mask: Tensor, stride: int, parameters: BlockParameters, norm_groups: int
) -> Tensor:
    """Deformable convolution and GroupNorm."""
    bias = None if parameters.conv_bias is None else parameters.conv_bias[branch]
    convolved = modulated_deform_conv2d(
        input, offset, parameters.conv_weight[branch], bias, (stride, stride), (1, 1), (1, 1), mask
    )
    weight, bias = parameters.norm_weight[branch], parameters.norm_bias[branch]
    return F.group_norm(convolved, norm_groups, weight, bias, GROUP_NORM_EPS)


def hard_sigmoid(logits: Tensor) -> Tensor:
    """min(max(z + 3, 0), 6) / 6."""
    return F.relu6(logits + 3) / 6


def scale_attention(features: Tensor, parameters: BlockParameters) -> Tensor:
    """How much a whole map counts: (N, C, H, W) -> (N, 1, 1, 1) in 0..1."""
    pooled = features.mean(dim=(2, 3))
    return hard_sigmoid(F.relu(pooled @ parameters.scale_weight + parameters.scale_bias)).view(-1, 1, 1, 1)


def dynamic_relu(features: Tensor, parameters: BlockParameters) -> Tensor:
    """The larger of two lines per channel, steered by the pooled map (Chen et al., arXiv 2003.10027, variant B)."""
    hidden = F.relu(F.linear(features.mean(dim=(2, 3)), parameters.relu_weight1, parameters.relu_bias1))
    theta = hard_sigmoid(F.linear(hidden, parameters.relu_weight2, parameters.relu_bias2))
    a1, b1, a2, b2 = theta[:, :, None, None].chunk(4, dim=1)
    return torch.maximum((2 * a1) * features + (b1 - 0.5), (2 * a2 - 1) * features + (b2 - 0.5))
