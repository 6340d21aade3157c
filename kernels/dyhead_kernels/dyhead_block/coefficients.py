"""GroupNorm, scale attention and dynamic ReLU, folded into coefficients per image, level and channel.

With s, t the affine map that GroupNorm is for one image, level and branch, kappa the branch's scale attention, k the
number of branches of the level and U the upsampling of the high branch, a block's output is

    m = sum_i A_i U(Y_i) + D,   A_i = kappa_i s_i / k,   D = sum_i kappa_i t_i / k,   out = max(a1 m + b1, a2 m + b2)

of the raw convolutions Y. All of it follows from the means of Y, Y^2 and U(Y): U is linear and its rows sum to one.
A convolution's bias only moves means, so it enters here and is never added to a map.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dyhead_kernels.dyhead_block.layout import BRANCHES, Layout
from dyhead_kernels.dyhead_block.parameters import BlockParameters
from dyhead_kernels.dyhead_block.reference import GROUP_NORM_EPS, hard_sigmoid


class Moments(NamedTuple):
    """Of the raw convolutions, (3, N, L, C) each, branches high, mid, low; zero where a level lacks a branch."""

    mean: Tensor
    mean_square: Tensor
    mean_upsampled: Tensor


class Coefficients(NamedTuple):
    """A (3, N, L, C), D (N, L, C) and a1, b1, a2, b2, (N, L, C) each, of the formula above."""

    gain: Tensor
    shift: Tensor
    slope1: Tensor
    shift1: Tensor
    slope2: Tensor
    shift2: Tensor


def fold(moments: Moments, parameters: BlockParameters, layout: Layout, norm_groups: int) -> Coefficients:
    """The coefficients, in the dtype of `moments`; tiny tensors, so plain autograd differentiates them."""
    mean = moments.mean
    gamma, beta, bias = (
        mean.new_zeros(()) if p is None else p[:, None, None].to(mean.dtype)
        for p in (parameters.norm_weight, parameters.norm_bias, parameters.conv_bias)
    )
    with torch.autocast(mean.device.type, enabled=False):
        scale, shift = _group_norm(moments, gamma, beta, bias, norm_groups)

        pooled = scale * moments.mean_upsampled + shift
        logits = pooled @ parameters.scale_weight.to(mean.dtype) + parameters.scale_bias.to(mean.dtype)
        kappa = hard_sigmoid(F.relu(logits)).unsqueeze(-1) * _branch_shares(layout, mean)
        gain, total_shift = kappa * scale, (kappa * shift).sum(dim=0)

        pooled = (gain * moments.mean_upsampled).sum(dim=0) + total_shift
        weight1, bias1, weight2, bias2 = (
            p.to(mean.dtype)
            for p in (parameters.relu_weight1, parameters.relu_bias1, parameters.relu_weight2, parameters.relu_bias2)
        )
        theta = hard_sigmoid(F.linear(F.relu(F.linear(pooled, weight1, bias1)), weight2, bias2))
        a1, b1, a2, b2 = theta.chunk(4, dim=-1)
        return Coefficients(gain, total_shift, 2 * a1, b1 - 0.5, 2 * a2 - 1, b2 - 0.5)


def _group_norm(moments: Moments, gamma: Tensor, beta: Tensor, bias: Tensor, norm_groups: int) -> tuple[Tensor, Tensor]:
    """s and t with GroupNorm(Y + bias) = s Y + t, (3, N, L, C) each."""
    # The variance is centred per channel, then channels are pooled: groups of unlike channels lose no digits.
    variance = (moments.mean_square - moments.mean.square()).clamp(min=0).unflatten(-1, (norm_groups, -1))
    channel_mean = (moments.mean + bias).unflatten(-1, (norm_groups, -1))
    group_mean = channel_mean.mean(dim=-1, keepdim=True)
    group_variance = (variance + (channel_mean - group_mean).square()).mean(dim=-1, keepdim=True)
    scale = gamma * (group_variance + GROUP_NORM_EPS).rsqrt().expand_as(channel_mean).flatten(-2)
    return scale, beta + scale * (bias - group_mean.expand_as(channel_mean).flatten(-2))


def _branch_shares(layout: Layout, like: Tensor) -> Tensor:
    """(3, 1, L, 1), 1 / k for each of the k branches that a level has, else 0."""
    present = like.new_tensor([[layout.has(branch, level) for level in layout.levels] for branch in BRANCHES])
    return (present / present.sum(dim=0))[:, None, :, None]
