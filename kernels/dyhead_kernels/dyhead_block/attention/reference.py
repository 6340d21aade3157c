"""GroupNorm, scale attention and dynamic ReLU of whole maps, as the papers have them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..parameters import BlockParameters

GROUP_NORM_EPS = 1e-5


def group_norm(convolved: Tensor, branch: int, parameters: BlockParameters, norm_groups: int) -> Tensor:
    """GroupNorm of a branch's convolution, (N, C, H, W) -> the same."""
    weight, bias = parameters.norm_weight[branch], parameters.norm_bias[branch]
    return F.group_norm(convolved, norm_groups, weight, bias, GROUP_NORM_EPS)


def hard_sigmoid(logits: Tensor) -> Tensor:
    """min(max(z + 3, 0), 6) / 6."""
    return F.relu6(logits + 3) / 6


def scale_attention(features: Tensor, parameters: BlockParameters) -> Tensor:
    """Weight of a whole map: (N, C, H, W) -> (N, 1, 1, 1) in 0..1."""
    pooled = features.mean(dim=(2, 3))
    return hard_sigmoid(F.relu(pooled @ parameters.scale_weight + parameters.scale_bias)).view(-1, 1, 1, 1)


def relu_lines(features: Tensor, parameters: BlockParameters) -> tuple[Tensor, Tensor]:
    """Slopes and intercepts of the two lines of each channel: (N, C, H, W) -> (2, N, C, 1, 1) each."""
    hidden = F.relu(F.linear(features.mean(dim=(2, 3)), parameters.relu_weight1, parameters.relu_bias1))
    theta = hard_sigmoid(F.linear(hidden, parameters.relu_weight2, parameters.relu_bias2))
    a1, b1, a2, b2 = theta[:, :, None, None].chunk(4, dim=1)
    return torch.stack([2 * a1, 2 * a2 - 1]), torch.stack([b1 - 0.5, b2 - 0.5])


def dynamic_relu(features: Tensor, parameters: BlockParameters) -> Tensor:
    """The larger of two lines per channel, chosen by the pooled map (Chen et al., arXiv 2003.10027, variant B)."""
    slopes, intercepts = relu_lines(features, parameters)
    first, second = slopes * features + intercepts
    return torch.maximum(first, second)
