"""Moments and coefficients in plain PyTorch, with their gradients written out: operators run where autograd does not
record. The formulas are those of `quantities.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...precision import without_autocast
from .. import native
from ..layout import BRANCHES, HIGH, BranchLayout
from ..parameters import BlockParameters
from .quantities import Coefficients, Moments
from .reference import GROUP_NORM_EPS, hard_sigmoid


def measure(convolved: Sequence[Tensor], layout: BranchLayout, moments: Moments) -> None:
    """Write moments (3, N, L, C) of high, mid and low, (N, S_i, C) each, packed as in `BranchLayout`."""
    if native.serves(convolved, *moments):
        native.measure(convolved, layout, moments)
        return
    for tensor in moments:
        tensor.zero_()
    for (branch, level), rows in layout.split(convolved).items():
        widened = rows.to(moments.mean.dtype)
        mean = widened.mean(dim=1, keepdim=True)
        centred = torch.sub(widened, mean, out=None if widened is rows else widened)
        moments.mean[branch, :, level] = mean.squeeze(1)
        if branch == HIGH:
            weights = layout.upsampling_weights(level, mean.dtype, mean.device)
            moments.mean_change[branch, :, level] = (weights @ centred).squeeze(1)
        moments.variance[branch, :, level] = centred.square_().mean(dim=1)


class _Steps(NamedTuple):
    """Everything between the moments and the coefficients, for the way back.

    Attributes:
        gamma, bias: (3, 1, 1, C), GroupNorm's weight and the convolutions' bias.
        deviation, inverse_std: (3, N, L, G, C / G) and (3, N, L, G, 1), a channel's mean less its group's, and what
            GroupNorm multiplies by.
        scale, at_mean: (3, N, L, C), GroupNorm(Y + bias) = scale (Y - M) + at_mean.
        pooled: (3, N, L, C), means of the normalised maps; logits: (3, N, L), their scale attention before the clamps.
        weight: (3, 1, L, 1), 1 / k for each of the k branches that a level has, else 0.
        kappa: (3, N, L, 1), that weight times the scale attention.
        gain, shift: A and D.
        mixed, hidden, theta_logits: (N, L, C), (N, L, C / 4) and (N, L, 4 * C), the dynamic ReLU's steps; `hidden` is
            after its ReLU.
    """

    gamma: Tensor
    bias: Tensor
    deviation: Tensor
    inverse_std: Tensor
    scale: Tensor
    at_mean: Tensor
    pooled: Tensor
    logits: Tensor
    weight: Tensor
    kappa: Tensor
    gain: Tensor
    shift: Tensor
    mixed: Tensor
    hidden: Tensor
    theta_logits: Tensor


def forward(moments: Moments, parameters: BlockParameters, layout: BranchLayout, norm_groups: int) -> Coefficients:
    """Coefficients (N, L, C), gains (3, N, L, C), in the dtype of `moments`; differentiable by autograd too."""
    steps = _steps(moments, parameters, layout, norm_groups)
    a1, b1, a2, b2 = hard_sigmoid(steps.theta_logits).chunk(4, dim=-1)
    return Coefficients(steps.gain, steps.shift, 2 * a1, b1 - 0.5, 2 * a2 - 1, b2 - 0.5)


def _steps(moments: Moments, parameters: BlockParameters, layout: BranchLayout, norm_groups: int) -> _Steps:
    mean, variance, mean_change = moments
    gamma, beta, bias = (
        mean.new_zeros(1, 1, 1, 1) if p is None else p[:, None, None].to(mean.dtype)
        for p in (parameters.norm_weight, parameters.norm_bias, parameters.conv_bias)
    )
    with without_autocast(mean):
        # The variance is centred per channel, then channels are pooled: groups of unlike channels lose no digits.
        channel_mean = (mean + bias).unflatten(-1, (norm_groups, -1))
        deviation = channel_mean - channel_mean.mean(dim=-1, keepdim=True)
        spread = variance.unflatten(-1, (norm_groups, -1)) + deviation.square()
        inverse_std = (spread.mean(dim=-1, keepdim=True) + GROUP_NORM_EPS).rsqrt()
        scale = gamma * inverse_std.expand_as(deviation).flatten(-2)
        at_mean = beta + scale * deviation.flatten(-2)

        pooled = scale * mean_change + at_mean
        logits = pooled @ parameters.scale_weight.to(mean.dtype) + parameters.scale_bias.to(mean.dtype)
        weight = _branch_weights(layout, mean)
        kappa = hard_sigmoid(F.relu(logits)).unsqueeze(-1) * weight
        gain, shift = kappa * scale, (kappa * at_mean).sum(dim=0)

        mixed = (gain * mean_change).sum(dim=0) + shift
        weight1, bias1, weight2, bias2 = (p.to(mean.dtype) for p in _relu_parameters(parameters))
        hidden = F.relu(F.linear(mixed, weight1, bias1))
        theta_logits = F.linear(hidden, weight2, bias2)
    return _Steps(
        gamma, bias, deviation, inverse_std, scale, at_mean, pooled, logits, weight, kappa, gain, shift, mixed, hidden,
        theta_logits,
    )  # fmt: skip


def backward(
    moments: Moments, parameters: BlockParameters, layout: BranchLayout, norm_groups: int, grads: Coefficients
) -> tuple[Moments, dict[str, Tensor | None]]:
    """Gradients of the coefficients -> those of the moments, and of the parameters that `forward` reads, by name.

    The gradient of the mean is that of the whole formula, in which a branch's mean is also taken from Y: it counts
    -A times the gradient of D, which is the sum of the gradients of m. Parameters' gradients come in their own dtype.
    """
    mean_change, dtype = moments.mean_change, moments.mean.dtype
    steps = _steps(moments, parameters, layout, norm_groups)
    weight1, _, weight2, _ = (p.to(dtype) for p in _relu_parameters(parameters))
    with without_autocast(mean_change):
        grad_theta = torch.cat([2 * grads.slope1, grads.shift1, 2 * grads.slope2, grads.shift2], dim=-1)
        grad_theta_logits = grad_theta * _hard_sigmoid_slope(steps.theta_logits)
        grad_hidden = (grad_theta_logits @ weight2) * (steps.hidden > 0)
        grad_mixed = grad_hidden @ weight1

        grad_gain, grad_shift = grads.gain + grad_mixed * mean_change, grads.shift + grad_mixed
        grad_kappa = (grad_gain * steps.scale + grad_shift * steps.at_mean).sum(dim=-1, keepdim=True)
        logits = steps.logits.unsqueeze(-1)
        grad_logits = grad_kappa * steps.weight * _hard_sigmoid_slope(F.relu(logits)) * (logits > 0)
        grad_pooled = grad_logits * parameters.scale_weight.to(dtype)
        grad_mean_change = steps.gain * grad_mixed + steps.scale * grad_pooled
        grad_at_mean = grad_shift * steps.kappa + grad_pooled

        deviation = steps.deviation.flatten(-2)
        inverse_std = steps.inverse_std.expand_as(steps.deviation).flatten(-2)
        grad_scale = grad_gain * steps.kappa + grad_pooled * mean_change + grad_at_mean * deviation
        per_channel = [
            g.unflatten(-1, (norm_groups, -1)) for g in (grad_scale * steps.gamma, grad_at_mean * steps.scale)
        ]
        grad_inverse_std = per_channel[0].sum(dim=-1, keepdim=True)
        size = steps.deviation.shape[-1]
        grad_variance = (grad_inverse_std * steps.inverse_std**3 / (-2 * size)).expand_as(steps.deviation)
        of_group = 2 * grad_variance * steps.deviation - per_channel[1].mean(dim=-1, keepdim=True)
        grad_mean = (grad_mixed * steps.kappa + grad_pooled) * steps.scale + of_group.flatten(-2)
        grad_bias = grad_at_mean * steps.scale + of_group.flatten(-2)

        found = {
            "conv_bias": None if parameters.conv_bias is None else grad_bias.sum(dim=(1, 2)),
            "norm_weight": (grad_scale * inverse_std).sum(dim=(1, 2)),
            "norm_bias": grad_at_mean.sum(dim=(1, 2)),
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
    return Moments(grad_mean, grad_variance.flatten(-2), grad_mean_change), grad_parameters


def _relu_parameters(parameters: BlockParameters) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return parameters.relu_weight1, parameters.relu_bias1, parameters.relu_weight2, parameters.relu_bias2


def _hard_sigmoid_slope(logits: Tensor) -> Tensor:
    return ((logits > -3) & (logits < 3)).to(logits.dtype) / 6


def _branch_weights(layout: BranchLayout, like: Tensor) -> Tensor:
    """(3, 1, L, 1), 1 / k for each of the k branches that a level has, else 0."""
    present = like.new_tensor([[layout.has(branch, level) for level in layout.levels] for branch in BRANCHES])
    return (present / present.sum(dim=0))[:, None, :, None]
