"""Coefficients of one image and level from its moments, and their gradients.

The formulas are those of `quantities.py`. One program has all channels of an image and level; moments, (N, L, 3
branches, 3, C), and coefficients, (N, L, 8, C), are float32 rows that `rows.py` names. SIZES is an
`arguments.Sizes`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ...launch.columns import if_any
from .arguments import Attention, ParameterPointers
from .reference import GROUP_NORM_EPS
from .rows import (
    BRANCHES,
    COEFFICIENTS,
    GAIN,
    GRAD_CONV_BIAS,
    GRAD_NORM_BIAS,
    GRAD_NORM_WEIGHT,
    GRAD_RELU_BIAS2,
    GRAD_SCALE_WEIGHT,
    GRADIENTS,
    MEAN,
    MEAN_CHANGE,
    MOMENTS,
    SHIFT,
    SHIFT1,
    SHIFT2,
    SLOPE1,
    SLOPE2,
    VARIANCE,
)

EPSILON = tl.constexpr(GROUP_NORM_EPS)


@triton.jit
def _vector(ptr, channel, exists):
    return tl.load(ptr + channel, mask=exists, other=0.0).to(tl.float32)


@triton.jit
def _hard_sigmoid(logit):
    return tl.minimum(tl.maximum(logit + 3.0, 0.0), 6.0) / 6.0


@triton.jit
def _present(merges_ptr, level, branch):
    """1 if the level has the branch, else 0."""
    at = merges_ptr + (level * BRANCHES + branch) * 2
    return (tl.load(at) < tl.load(at + 1)).to(tl.int32)


@triton.jit
def _group_sum(values, channel, C: tl.constexpr, GROUPS: tl.constexpr, BLOCK_G: tl.constexpr):
    """The sum over its group, for each channel (BLOCK,)."""
    if GROUPS == C:
        total = values
    else:
        total = tl.zeros_like(values)
        for first in range(0, GROUPS, BLOCK_G):
            group = first + tl.arange(0, BLOCK_G)
            member = (channel[None, :] // (C // GROUPS) == group[:, None]) & (channel < C)[None, :]
            sums = tl.sum(tl.where(member, values[None, :], 0.0), axis=1)
            total += tl.sum(tl.where(member, sums[:, None], 0.0), axis=0)
    return total


@triton.jit
def _group_norm(mean, variance, bias, channel, C: tl.constexpr, GROUPS: tl.constexpr, BLOCK_G: tl.constexpr):
    """Each channel's mean, bias and all, less its group's, and the reciprocal of the group's standard deviation."""
    size: tl.constexpr = C // GROUPS
    mean += bias
    # The variance is centred per channel, then channels are pooled: groups of unlike channels lose no digits.
    deviation = mean - _group_sum(mean, channel, C, GROUPS, BLOCK_G) / size
    group_variance = _group_sum(variance + deviation * deviation, channel, C, GROUPS, BLOCK_G) / size
    return deviation, tl.rsqrt(group_variance + EPSILON)


@triton.jit
def _attention_forward_kernel(
    merges_ptr,
    found: Attention,
    parameters: ParameterPointers,
    SIZES: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_G: tl.constexpr,
    MATRIX_ROWS: tl.constexpr,
):
    """Grid: (levels, blocks of the dynamic ReLU's 4 C outputs, images); each program finds what its block reads.

    `merges_ptr`, (L, 3, 2): first piece and end of each branch, equal if it is absent.
    """
    C: tl.constexpr = SIZES.channels
    HIDDEN: tl.constexpr = SIZES.hidden
    GROUPS: tl.constexpr = SIZES.norm_groups
    level = tl.program_id(0)
    is_first = (tl.program_id(1) == 0).to(tl.int32)  # of those that find the same, one writes it
    place = tl.program_id(2).to(tl.int64) * tl.num_programs(0) + level
    coefficients_ptr = found.coefficients + place * (COEFFICIENTS * C)
    moments_ptr = found.moments + place * (BRANCHES * MOMENTS * C)
    hidden_ptr = found.hidden + place * HIDDEN
    channel = tl.arange(0, BLOCK_C)
    exists = channel < C

    count = _present(merges_ptr, level, 0) + _present(merges_ptr, level, 1) + _present(merges_ptr, level, 2)
    pooled = tl.zeros((BLOCK_C,), tl.float32)
    shift = tl.zeros((BLOCK_C,), tl.float32)
    for branch in tl.static_range(BRANCHES):
        gain = tl.zeros((BLOCK_C,), tl.float32)
        if _present(merges_ptr, level, branch) > 0:
            mean = _vector(moments_ptr + (branch * MOMENTS + MEAN) * C, channel, exists)
            variance = _vector(moments_ptr + (branch * MOMENTS + VARIANCE) * C, channel, exists)
            mean_change = _vector(moments_ptr + (branch * MOMENTS + MEAN_CHANGE) * C, channel, exists)
            bias = (
                _vector(parameters.conv_bias_ptr + branch * C, channel, exists)
                if SIZES.has_conv_bias
                else tl.zeros_like(mean)
            )
            deviation, inverse_std = _group_norm(mean, variance, bias, channel, C, GROUPS, BLOCK_G)
            scale = _vector(parameters.norm_weight_ptr + branch * C, channel, exists) * inverse_std
            at_mean = _vector(parameters.norm_bias_ptr + branch * C, channel, exists) + scale * deviation
            normed = scale * mean_change + at_mean
            logit = tl.sum(normed * _vector(parameters.scale_weight_ptr, channel, exists), axis=0)
            logit += tl.load(parameters.scale_bias_ptr).to(tl.float32)
            kappa = _hard_sigmoid(tl.maximum(logit, 0.0)) / count
            gain = kappa * scale
            shift += kappa * at_mean
            pooled += kappa * normed
        tl.store(coefficients_ptr + (GAIN + branch) * C + channel, gain, mask=if_any(exists, is_first))
    tl.store(coefficients_ptr + SHIFT * C + channel, shift, mask=if_any(exists, is_first))

    row = tl.program_id(1) * MATRIX_ROWS + tl.arange(0, MATRIX_ROWS)
    logit = _vector(parameters.relu_bias2_ptr, row, row < 4 * C)
    for start in range(0, HIDDEN, MATRIX_ROWS):
        unit = start + tl.arange(0, MATRIX_ROWS)
        here = (unit < HIDDEN)[:, None] & exists[None, :]
        matrix = tl.load(parameters.relu_weight1_ptr + unit[:, None] * C + channel[None, :], mask=here, other=0.0).to(
            tl.float32
        )
        activation = tl.sum(matrix * pooled[None, :], axis=1) + _vector(parameters.relu_bias1_ptr, unit, unit < HIDDEN)
        activation = tl.maximum(activation, 0.0)
        tl.store(hidden_ptr + unit, activation, mask=if_any(unit < HIDDEN, is_first))
        here = (row < 4 * C)[:, None] & (unit < HIDDEN)[None, :]
        matrix = tl.load(parameters.relu_weight2_ptr + row[:, None] * HIDDEN + unit[None, :], mask=here, other=0.0).to(
            tl.float32
        )
        logit += tl.sum(matrix * activation[None, :], axis=1)
    theta = _hard_sigmoid(logit)
    which = row // C  # slope1, shift1, slope2, shift2
    value = tl.where(which % 2 == 1, theta - 0.5, tl.where(which == 0, 2 * theta, 2 * theta - 1))
    tl.store(coefficients_ptr + SLOPE1 * C + row, value, mask=row < 4 * C)


@triton.jit
def _theta_backward(grad, theta, factor: tl.constexpr):
    """The gradient of the logit of theta = hard_sigmoid(logit), from that of factor * theta."""
    return tl.where((theta > 0.0) & (theta < 1.0), grad * (factor / 6.0), 0.0)


@triton.jit
def _attention_backward_kernel(
    grad_moments_ptr,
    rows_ptr,
    pooled_ptr,
    sums_ptr,
    merges_ptr,
    found: Attention,
    parameters: ParameterPointers,
    SIZES: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_G: tl.constexpr,
    MATRIX_ROWS: tl.constexpr,
):
    """Gradients of the coefficients -> gradients of the moments, (N, L, 3, 3, C), and the parts that parameters get
    from each image and level.

    A row of `rows_ptr`, (N * L, 14 C + HIDDEN + 1), holds `quantities.GRADIENT_ROWS`, then the gradients of the hidden
    units before their ReLU and of the scale bias. `pooled_ptr`, (N * L, C), gets the dynamic ReLU's input. Grid:
    (levels, images).
    """
    C: tl.constexpr = SIZES.channels
    HIDDEN: tl.constexpr = SIZES.hidden
    GROUPS: tl.constexpr = SIZES.norm_groups
    GROUP_SIZE: tl.constexpr = C // GROUPS
    level = tl.program_id(0)
    place = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + level
    sums_ptr += place * (COEFFICIENTS * C)
    coefficients_ptr = found.coefficients + place * (COEFFICIENTS * C)
    moments_ptr = found.moments + place * (BRANCHES * MOMENTS * C)
    grad_moments_ptr += place * (BRANCHES * MOMENTS * C)
    hidden_ptr = found.hidden + place * HIDDEN
    rows_ptr += place * (GRADIENTS * C + HIDDEN + 1)
    channel = tl.arange(0, BLOCK_C)
    exists = channel < C

    # Dynamic ReLU.
    grad = _vector(sums_ptr + SLOPE1 * C, channel, exists)
    grad_slope1 = _theta_backward(grad, _vector(coefficients_ptr + SLOPE1 * C, channel, exists) / 2, 2.0)
    grad = _vector(sums_ptr + SHIFT1 * C, channel, exists)
    grad_shift1 = _theta_backward(grad, _vector(coefficients_ptr + SHIFT1 * C, channel, exists) + 0.5, 1.0)
    grad = _vector(sums_ptr + SLOPE2 * C, channel, exists)
    grad_slope2 = _theta_backward(grad, (_vector(coefficients_ptr + SLOPE2 * C, channel, exists) + 1) / 2, 2.0)
    grad = _vector(sums_ptr + SHIFT2 * C, channel, exists)
    grad_shift2 = _theta_backward(grad, _vector(coefficients_ptr + SHIFT2 * C, channel, exists) + 0.5, 1.0)
    tl.store(rows_ptr + GRAD_RELU_BIAS2 * C + channel, grad_slope1, mask=exists)
    tl.store(rows_ptr + (GRAD_RELU_BIAS2 + 1) * C + channel, grad_shift1, mask=exists)
    tl.store(rows_ptr + (GRAD_RELU_BIAS2 + 2) * C + channel, grad_slope2, mask=exists)
    tl.store(rows_ptr + (GRAD_RELU_BIAS2 + 3) * C + channel, grad_shift2, mask=exists)
    grad_pooled = tl.zeros((BLOCK_C,), tl.float32)
    for start in range(0, HIDDEN, MATRIX_ROWS):
        unit = start + tl.arange(0, MATRIX_ROWS)
        known = unit < HIDDEN
        here = known[:, None] & exists[None, :]
        at = parameters.relu_weight2_ptr + channel[None, :] * HIDDEN + unit[:, None]
        step = C * HIDDEN
        sums = tl.load(at, mask=here, other=0.0).to(tl.float32) * grad_slope1[None, :]
        sums += tl.load(at + step, mask=here, other=0.0).to(tl.float32) * grad_shift1[None, :]
        sums += tl.load(at + 2 * step, mask=here, other=0.0).to(tl.float32) * grad_slope2[None, :]
        sums += tl.load(at + 3 * step, mask=here, other=0.0).to(tl.float32) * grad_shift2[None, :]
        grad_unit = tl.where(_vector(hidden_ptr, unit, known) > 0.0, tl.sum(sums, axis=1), 0.0)
        tl.store(rows_ptr + GRADIENTS * C + unit, grad_unit, mask=known)
        matrix = tl.load(parameters.relu_weight1_ptr + unit[:, None] * C + channel[None, :], mask=here, other=0.0).to(
            tl.float32
        )
        grad_pooled += tl.sum(matrix * grad_unit[:, None], axis=0)

    # Scale attention and GroupNorm, branch by branch.
    count = _present(merges_ptr, level, 0) + _present(merges_ptr, level, 1) + _present(merges_ptr, level, 2)
    grad_shift = _vector(sums_ptr + SHIFT * C, channel, exists) + grad_pooled
    pooled = _vector(coefficients_ptr + SHIFT * C, channel, exists)
    scale_weight = _vector(parameters.scale_weight_ptr, channel, exists)
    grad_scale_weight = tl.zeros((BLOCK_C,), tl.float32)
    grad_scale_bias = 0.0
    for branch in tl.static_range(BRANCHES):
        mean = _vector(moments_ptr + (branch * MOMENTS + MEAN) * C, channel, exists)
        variance = _vector(moments_ptr + (branch * MOMENTS + VARIANCE) * C, channel, exists)
        mean_change = _vector(moments_ptr + (branch * MOMENTS + MEAN_CHANGE) * C, channel, exists)
        gain = _vector(coefficients_ptr + (GAIN + branch) * C, channel, exists)
        bias = (
            _vector(parameters.conv_bias_ptr + branch * C, channel, exists)
            if SIZES.has_conv_bias
            else tl.zeros_like(mean)
        )
        present = _present(merges_ptr, level, branch).to(tl.float32)
        deviation, inverse_std = _group_norm(mean, variance, bias, channel, C, GROUPS, BLOCK_G)
        norm_weight = _vector(parameters.norm_weight_ptr + branch * C, channel, exists)
        scale = norm_weight * inverse_std
        at_mean = _vector(parameters.norm_bias_ptr + branch * C, channel, exists) + scale * deviation
        normed = scale * mean_change + at_mean
        logit = tl.sum(normed * scale_weight, axis=0) + tl.load(parameters.scale_bias_ptr).to(tl.float32)
        attention = _hard_sigmoid(tl.maximum(logit, 0.0))
        pooled += gain * mean_change

        # gain = attention scale / count, shift += attention at_mean / count, pooled += gain mean_change + that
        grad_gain = _vector(sums_ptr + (GAIN + branch) * C, channel, exists)
        grad_gain += grad_pooled * mean_change
        grad_attention = tl.sum(grad_gain * scale + grad_shift * at_mean, axis=0) * present / count
        grad_logit = tl.where((logit > 0.0) & (logit < 3.0), grad_attention / 6.0, 0.0)
        kappa = attention * present / count
        grad_normed = grad_logit * scale_weight
        grad_mean_change = grad_pooled * gain + grad_normed * scale
        grad_at_mean = grad_shift * kappa + grad_normed
        grad_scale = grad_gain * kappa + grad_normed * mean_change + grad_at_mean * deviation
        grad_scale_weight += grad_logit * normed
        grad_scale_bias += grad_logit

        # scale = weight inverse_std, at_mean = bias of the norm + scale deviation, deviation = mean + bias - group
        # mean. The mean is also taken from Y, which takes back what the gradients of m send it through at_mean.
        group_grad = _group_sum(grad_at_mean * scale, channel, C, GROUPS, BLOCK_G) / GROUP_SIZE
        grad_variance = _group_sum(grad_scale * norm_weight, channel, C, GROUPS, BLOCK_G)
        grad_variance *= -0.5 / GROUP_SIZE * inverse_std * inverse_std * inverse_std
        grad_deviation = grad_variance * 2 * deviation - group_grad
        grad_mean = (grad_pooled * kappa + grad_normed) * scale + grad_deviation
        tl.store(rows_ptr + (GRAD_NORM_WEIGHT + branch) * C + channel, grad_scale * inverse_std, mask=exists)
        tl.store(rows_ptr + (GRAD_NORM_BIAS + branch) * C + channel, grad_at_mean, mask=exists)
        tl.store(rows_ptr + (GRAD_CONV_BIAS + branch) * C + channel, grad_at_mean * scale + grad_deviation, mask=exists)
        tl.store(grad_moments_ptr + (branch * MOMENTS + MEAN) * C + channel, grad_mean, mask=exists)
        tl.store(grad_moments_ptr + (branch * MOMENTS + VARIANCE) * C + channel, grad_variance, mask=exists)
        tl.store(grad_moments_ptr + (branch * MOMENTS + MEAN_CHANGE) * C + channel, grad_mean_change, mask=exists)
    tl.store(rows_ptr + GRAD_SCALE_WEIGHT * C + channel, grad_scale_weight, mask=exists)
    tl.store(rows_ptr + GRADIENTS * C + HIDDEN, grad_scale_bias)
    tl.store(pooled_ptr + place * C + channel, pooled, mask=exists)
