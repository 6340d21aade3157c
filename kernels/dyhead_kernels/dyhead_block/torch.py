"""One DyHead block in plain PyTorch, fast on CPUs: all levels of a branch at once, GroupNorm folded away.

With s, t the affine map that GroupNorm is for a given image, level and branch, kappa the scale attention, k the
number of branches of a level and U the upsampling of the high branch, everything after the convolutions Y is

    m = sum_i A_i U(Y_i) + D,   A_i = kappa_i s_i / k,   D = sum_i kappa_i t_i / k,   out = max(a1 m + b1, a2 m + b2)

per channel, and A, D, a, b follow from per-channel means of Y, Y^2 and U(Y): U is linear and its rows sum to one.
The convolution's bias only moves means, so it is never added to a map.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dyhead_kernels.dyhead_block.offset_modes import high_branch_steering
from dyhead_kernels.dyhead_block.parameters import BlockParameters, OffsetMode
from dyhead_kernels.dyhead_block.reference import GROUP_NORM_EPS, HIGH, LOW, MID, hard_sigmoid
from dyhead_kernels.precision import matmul_dtype, sampling_dtype
from dyhead_kernels.pyramid import Pyramid
from dyhead_kernels.sampled_conv import sampled_conv
from dyhead_kernels.sampling import OutputMap, sampling_grid

Shapes = tuple[tuple[int, int], ...]


def dyhead_block(
    pyramid: Pyramid, parameters: BlockParameters, offset_mode: OffsetMode, norm_groups: int
) -> Pyramid:
    """Shapes as in `op.dyhead_block`, unchecked."""
    values = pyramid.values
    steering = _steering(pyramid, parameters, offset_mode)
    dtype = matmul_dtype(values, parameters.conv_weight)
    convolved: list[Tensor] = []  # high (N, S - S_0, C), mid (N, S, C), low (N, S - S_0, C)
    for branch, (offset, mask) in enumerate(steering):
        grid = sampling_grid(
            _output_maps(branch, pyramid.shapes), (3, 3), (1, 1), (1, 1), offset.dtype, values.device
        )
        matrix = parameters.conv_weight[branch].permute(0, 2, 3, 1).flatten(1)
        convolved.append(sampled_conv(values, offset, mask, matrix, grid, dtype))
    moments = [_moments(values, branch, pyramid.shapes) for branch, values in enumerate(convolved)]
    coefficients = _coefficients(moments, parameters, norm_groups)
    return Pyramid(_apply(convolved, coefficients, pyramid.shapes), pyramid.shapes)


def _steering(
    pyramid: Pyramid, parameters: BlockParameters, offset_mode: OffsetMode
) -> list[tuple[Tensor, Tensor]]:
    """Offsets (N, P, 9, 2) and masks (N, P, 9) of the branches high, mid and low."""
    dtype = sampling_dtype(pyramid.values)
    per_branch: list[list[tuple[Tensor, Tensor]]] = [[], [], []]
    for index, level in enumerate(pyramid.levels()):
        maps = F.conv2d(level, parameters.offset_weight, parameters.offset_bias, padding=1).to(dtype)
        offset, mask = maps[:, :18], maps[:, 18:].sigmoid()
        per_branch[MID].append((offset, mask))
        if index > 0:
            per_branch[LOW].append((offset, mask))
        if index < len(pyramid.shapes) - 1:
            per_branch[HIGH].append(high_branch_steering(offset, mask, pyramid.shapes[index + 1], offset_mode))
    batch, device = pyramid.values.shape[0], pyramid.values.device

    def pack(maps: list[Tensor]) -> Tensor:
        empty = torch.empty(batch, 0, maps[0].shape[1] if maps else 0, dtype=dtype, device=device)
        return torch.cat([empty, *(m.flatten(2).transpose(1, 2) for m in maps)], dim=1) if maps else empty

    packed = []
    for parts in per_branch:
        offset, mask = pack([offset for offset, _ in parts]), pack([mask for _, mask in parts])
        packed.append((offset.view(batch, -1, 9, 2) if parts else offset.new_empty(batch, 0, 9, 2),
                       mask if parts else mask.new_empty(batch, 0, 9)))
    return packed


@lru_cache(maxsize=256)
def _output_maps(branch: int, shapes: Shapes) -> tuple[OutputMap, ...]:
    """What each branch writes and reads: `high` on its own coarse grid, `low` with stride 2 onto the coarser grid."""
    starts = [0]
    for height, width in shapes:
        starts.append(starts[-1] + height * width)
    if branch == LOW:
        return tuple(OutputMap(shapes[i], shapes[i - 1], starts[i - 1], (2, 2)) for i in range(1, len(shapes)))
    first = 1 if branch == HIGH else 0
    return tuple(OutputMap(shapes[i], shapes[i], starts[i], (1, 1)) for i in range(first, len(shapes)))


class Moments(NamedTuple):
    """Per image, level and channel, (N, L, C), in destination levels; zero where a level lacks the branch."""

    mean: Tensor
    mean_square: Tensor
    mean_upsampled: Tensor


def _moments(values: Tensor, branch: int, shapes: Shapes) -> Moments:
    sizes = shapes if branch == MID else shapes[1:]
    dtype = sampling_dtype(values)
    mean, mean_square, mean_upsampled = [], [], []
    start = 0
    for level, (height, width) in enumerate(sizes):
        rows = values[:, start : start + height * width].to(dtype)
        start += height * width
        mean.append(rows.mean(dim=1))
        mean_square.append(rows.square().mean(dim=1))
        if branch == HIGH:
            share = _upsampling_shares((height, width), shapes[level], dtype, values.device)
            mean_upsampled.append(torch.einsum("npc,p->nc", rows, share))
        else:
            mean_upsampled.append(mean[-1])
    absent = values.new_zeros((values.shape[0], values.shape[2]), dtype=dtype)
    for moment in (mean, mean_square, mean_upsampled):
        if branch == HIGH:
            moment.append(absent)
        elif branch == LOW:
            moment.insert(0, absent)
    return Moments(torch.stack(mean, 1), torch.stack(mean_square, 1), torch.stack(mean_upsampled, 1))


@lru_cache(maxsize=256)
def _upsampling_shares(
    size: tuple[int, int], target: tuple[int, int], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """(h * w,), the part each small pixel has in the mean of the map upsampled to `target`."""
    with torch.inference_mode(False):
        axes = []
        for small, large in zip(size, target, strict=True):
            unit_rows = torch.eye(small, dtype=torch.float64).unsqueeze(0)
            axes.append(F.interpolate(unit_rows, large, mode="linear", align_corners=True)[0].mean(dim=1))
        return torch.outer(*axes).flatten().to(device, dtype)


class Coefficients(NamedTuple):
    """Everything the last pass needs, per image, level and channel.

    Attributes:
        gain: (3, N, L, C), A of the branches high, mid, low.
        shift: (N, L, C), D.
        lines: a1, b1, a2, b2, (N, L, C) each.
    """

    gain: Tensor
    shift: Tensor
    lines: tuple[Tensor, ...]


def _coefficients(moments: list[Moments], parameters: BlockParameters, norm_groups: int) -> Coefficients:
    """GroupNorm, scale attention and dynamic ReLU as coefficients. Tiny tensors, so plain autograd serves."""
    mean, mean_square, mean_upsampled = (torch.stack(parts) for parts in zip(*moments, strict=True))  # (3, N, L, C)
    dtype, device = mean.dtype, mean.device
    levels = mean.shape[2]
    present = torch.ones(3, 1, levels, 1, dtype=dtype, device=device)
    present[HIGH, :, -1] = 0
    present[LOW, :, 0] = 0
    share = present / present.sum(dim=0)

    with torch.autocast(device.type, enabled=False):
        gamma, beta = (p.to(dtype)[:, None, None] for p in (parameters.norm_weight, parameters.norm_bias))
        bias = 0 if parameters.conv_bias is None else parameters.conv_bias.to(dtype)[:, None, None]
        # Centred per channel before pooling over the group: channels far apart lose no digits.
        variance = (mean_square - mean.square()).clamp(min=0)
        channel_mean = (mean + bias).unflatten(-1, (norm_groups, -1))
        group_mean = channel_mean.mean(-1, keepdim=True)
        group_variance = (variance.unflatten(-1, (norm_groups, -1)) + (channel_mean - group_mean).square()).mean(
            -1, keepdim=True
        )
        rstd = (group_variance + GROUP_NORM_EPS).rsqrt()
        scale = (gamma.unflatten(-1, (norm_groups, -1)) * rstd).flatten(-2)
        shift = beta + ((bias + torch.zeros_like(mean)).unflatten(-1, (norm_groups, -1)) - group_mean).flatten(-2) * scale

        pooled = scale * mean_upsampled + shift
        logits = pooled @ parameters.scale_weight.to(dtype) + parameters.scale_bias.to(dtype)
        kappa = hard_sigmoid(F.relu(logits)).unsqueeze(-1) * share
        gain, total_shift = kappa * scale, (kappa * shift).sum(0)
        pooled = (gain * mean_upsampled).sum(0) + total_shift
        hidden = F.relu(F.linear(pooled, parameters.relu_weight1.to(dtype), parameters.relu_bias1.to(dtype)))
        theta = hard_sigmoid(F.linear(hidden, parameters.relu_weight2.to(dtype), parameters.relu_bias2.to(dtype)))
        a1, b1, a2, b2 = theta.chunk(4, dim=-1)
        return Coefficients(gain, total_shift, (2 * a1, b1 - 0.5, 2 * a2 - 1, b2 - 0.5))


def _apply(convolved: list[Tensor], coefficients: Coefficients, shapes: Shapes) -> Tensor:
    """The last pass over the maps."""
    levels = []
    starts = [0]
    for height, width in shapes:
        starts.append(starts[-1] + height * width)
    first = starts[1]
    for index, size in enumerate(shapes):
        rows = slice(starts[index], starts[index + 1])
        gain = coefficients.gain[:, :, index, None]
        mixed = convolved[MID][:, rows] * gain[MID] + coefficients.shift[:, index, None]
        if index > 0:
            mixed = mixed + convolved[LOW][:, rows.start - first : rows.stop - first] * gain[LOW]
        if index < len(shapes) - 1:
            small = convolved[HIGH][:, starts[index + 1] - first : starts[index + 2] - first] * gain[HIGH]
            small = small.unflatten(1, shapes[index + 1]).permute(0, 3, 1, 2)
            large = F.interpolate(small, size, mode="bilinear", align_corners=True)
            mixed = mixed + large.permute(0, 2, 3, 1).flatten(1, 2)
        a1, b1, a2, b2 = (line[:, index, None] for line in coefficients.lines)
        levels.append(torch.maximum(mixed * a1 + b1, mixed * a2 + b2).to(convolved[MID].dtype))
    return torch.cat(levels, dim=1)
