"""GroupNorm, scale attention and dynamic ReLU, folded into coefficients per image, level and channel.

With s, t the affine map that GroupNorm is for one image, level and branch, kappa the branch's scale attention, k the
number of branches of the level and U the upsampling of the high branch, a block's output is

    m = sum_i A_i U(Y_i) + D,   A_i = kappa_i s_i / k,   D = sum_i kappa_i t_i / k,   out = max(a1 m + b1, a2 m + b2)

of the raw convolutions Y. All of it follows from the means of Y and U(Y) and the variance of Y: U is linear and its
rows sum to one. A convolution's bias only moves means, so it enters here and is never added to a map.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...precision import without_autocast
from ..layout import BRANCHES, Layout
from ..parameters import BlockParameters
from ..reference import GROUP_NORM_EPS, hard_sigmoid


class Moments(NamedTuple):
    """Of the raw convolutions, (3, N, L, C) each, branches high, mid, low; zero where a level lacks a branch.

    Attributes:
        mean: over the map's pixels.
        variance: the mean of (Y - mean)^2, centred as written: a map far from zero loses no digits.
        mean_upsampled: of the map as it is added to its level, upsampled if it is the high branch's.
    """

    mean: Tensor
    variance: Tensor
    mean_upsampled: Tensor


class Coefficients(NamedTuple):
    """A (3, N, L, C), D (N, L, C) and a1, b1, a2, b2, (N, L, C) each, of the formula above."""

    gain: Tensor
    shift: Tensor
    slope1: Tensor
    shift1: Tensor
    slope2: Tensor
    shift2: Tensor


class _Steps(NamedTuple):
    """Everything between the moments and the coefficients, for the way back.

    Attributes:
        gamma, bias: (3, 1, 1, C), GroupNorm's weight and the convolutions' bias.
        channel_mean, group_mean, inverse_std: (3, N, L, G, C / G) and twice (3, N, L, G, 1).
        scale, shift: (3, N, L, C), GroupNorm(Y + bias) = scale Y + shift.
        pooled: (3, N, L, C), means of the normalised maps; logits: (3, N, L), their scale attention before the clamps.
        share: (3, 1, L, 1), 1 / k for each of the k branches that a level has, else 0; kappa: (3, N, L, 1), share and
            attention multiplied.
        gain, total_shift: A and D.
        mixed, hidden, theta_logits: (N, L, C), (N, L, C / 4) and (N, L, 4 * C), the dynamic ReLU's steps; `hidden` is
            after its ReLU.
    """

    gamma: Tensor
    bias: Tensor
    channel_mean: Tensor
    group_mean: Tensor
    inverse_std: Tensor
    scale: Tensor
    shift: Tensor
    pooled: Tensor
    logits: Tensor
    share: Tensor
    kappa: Tensor
    gain: Tensor
    total_shift: Tensor
    mixed: Tensor
    hidden: Tensor
    theta_logits: Tensor


def fold(moments: Moments, parameters: BlockParameters, layout: Layout, norm_groups: int) -> Coefficients:
    """The coefficients, in the dtype of `moments`; differentiable by autograd too."""
    steps = _fold(moments, parameters, layout, norm_groups)
    a1, b1, a2, b2 = hard_sigmoid(steps.theta_logits).chunk(4, dim=-1)
    return Coefficients(steps.gain, steps.total_shift, 2 * a1, b1 - 0.5, 2 * a2 - 1, b2 - 0.5)


def _fold(moments: Moments, parameters: BlockParameters, layout: Layout, norm_groups: int) -> _Steps:
    mean, variance, mean_upsampled = moments
    gamma, beta, bias = (
        mean.new_zeros(1, 1, 1, 1) if p is None else p[:, None, None].to(mean.dtype)
        for p in (parameters.norm_weight, parameters.norm_bias, parameters.conv_bias)
    )
    with without_autocast(mean):
        # The variance is centred per channel, then channels are pooled: groups of unlike channels lose no digits.
        channel_mean = (mean + bias).unflatten(-1, (norm_groups, -1))
        group_mean = channel_mean.mean(dim=-1, keepdim=True)
        spread = variance.unflatten(-1, (norm_groups, -1)) + (channel_mean - group_mean).square()
        inverse_std = (spread.mean(dim=-1, keepdim=True) + GROUP_NORM_EPS).rsqrt()
        scale = gamma * inverse_std.expand_as(channel_mean).flatten(-2)
        shift = beta + scale * (bias - group_mean.expand_as(channel_mean).flatten(-2))

        pooled = scale * mean_upsampled + shift
        logits = pooled @ parameters.scale_weight.to(mean.dtype) + parameters.scale_bias.to(mean.dtype)
        share = _branch_shares(layout, mean)
        kappa = hard_sigmoid(F.relu(logits)).unsqueeze(-1) * share
        gain, total_shift = kappa * scale, (kappa * shift).sum(dim=0)

        mixed = (gain * mean_upsampled).sum(dim=0) + total_shift
        weight1, bias1, weight2, bias2 = (p.to(mean.dtype) for p in _relu_parameters(parameters))
        hidden = F.relu(F.linear(mixed, weight1, bias1))
        theta_logits = F.linear(hidden, weight2, bias2)
    return _Steps(
        gamma, bias, channel_mean, group_mean, inverse_std, scale, shift, pooled, logits, share, kappa, gain,
        total_shift, mixed, hidden, theta_logits,
    )  # fmt: skip


def fold_backward(
    moments: Moments, parameters: BlockParameters, layout: Layout, norm_groups: int, grads: Coefficients
) -> tuple[Moments, dict[str, Tensor | None]]:
    """Gradients of the coefficients -> those of the moments, and of the parameters that `fold` reads, by name.

    Written out, since operators run where autograd does not record; parameters' gradients come in their own dtype.
    """
    mean_upsampled, dtype = moments.mean_upsampled, moments.mean.dtype
    steps = _fold(moments, parameters, layout, norm_groups)
    weight1, _, weight2, _ = (p.to(dtype) for p in _relu_parameters(parameters))
    with without_autocast(mean_upsampled):
        grad_theta = torch.cat([2 * grads.slope1, grads.shift1, 2 * grads.slope2, grads.shift2], dim=-1)
        grad_theta_logits = grad_theta * _hard_sigmoid_slope(steps.theta_logits)
        grad_hidden = (grad_theta_logits @ weight2) * (steps.hidden > 0)
        grad_mixed = grad_hidden @ weight1

        grad_gain, grad_total_shift = grads.gain + grad_mixed * mean_upsampled, grads.shift + grad_mixed
        grad_kappa = (grad_gain * steps.scale + grad_total_shift * steps.shift).sum(dim=-1, keepdim=True)
        logits = steps.logits.unsqueeze(-1)
        grad_logits = grad_kappa * steps.share * _hard_sigmoid_slope(F.relu(logits)) * (logits > 0)
        grad_pooled = grad_logits * parameters.scale_weight.to(dtype)
        grad_mean_upsampled = steps.gain * grad_mixed + steps.scale * grad_pooled
        grad_shift = grad_total_shift * steps.kappa + grad_pooled

        group_mean = steps.group_mean.expand_as(steps.channel_mean).flatten(-2)
        inverse_std = steps.inverse_std.expand_as(steps.channel_mean).flatten(-2)
        grad_scale = grad_gain * steps.kappa + grad_pooled * mean_upsampled + grad_shift * (steps.bias - group_mean)
        grad_bias = grad_shift * steps.scale
        per_channel = [g.unflatten(-1, (norm_groups, -1)) for g in (grad_scale * steps.gamma, grad_bias)]
        size = per_channel[0].shape[-1]
        grad_inverse_std, minus_grad_group_mean = (g.sum(dim=-1, keepdim=True) for g in per_channel)
        grad_variance = (grad_inverse_std * steps.inverse_std**3 / (-2 * size)).expand_as(steps.channel_mean)
        grad_channel_mean = 2 * grad_variance * (steps.channel_mean - steps.group_mean) - minus_grad_group_mean / size
        grad_mean = grad_channel_mean.flatten(-2)

        found = {
            "conv_bias": None if parameters.conv_bias is None else (grad_bias + grad_mean).sum(dim=(1, 2)),
            "norm_weight": (grad_scale * inverse_std).sum(dim=(1, 2)),
            "norm_bias": grad_shift.sum(dim=(1, 2)),
            "scale_weight": (grad_logits * steps.pooled).sum(dim=(0, 1, 2)),
            "scale_bias": grad_logits.sum().view(1),
            "relu_weight1": grad_hidden.flatten(0, 1).t() @ steps.mixed.flatten(0, 1),
            "relu_bias1": grad_hidden.sum(dim=(0, 1)),
            "relu_weight2": grad_theta_logits.flatten(0, 1).t() @ steps.hidden.flatten(0, 1),
            "relu_bias2": grad_theta_logits.sum(dim=(0, 1)),
        }
    grad_parameters = {
        name: None if grad is None else grad.to(getattr(parameters, name).dtype) for name, grad in found.items()
    }
    return Moments(grad_mean, grad_variance.flatten(-2), grad_mean_upsampled), grad_parameters


def _relu_parameters(parameters: BlockParameters) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return parameters.relu_weight1, parameters.relu_bias1, parameters.relu_weight2, parameters.relu_bias2


def _hard_sigmoid_slope(logits: Tensor) -> Tensor:
    return ((logits > -3) & (logits < 3)).to(logits.dtype) / 6


def _branch_shares(layout: Layout, like: Tensor) -> Tensor:
    """(3, 1, L, 1), 1 / k for each of the k branches that a level has, else 0."""
    present = like.new_tensor([[layout.has(branch, level) for level in layout.levels] for branch in BRANCHES])
    return (present / present.sum(dim=0))[:, None, :, None]
