"""Other ways to the same results: nested loops for one convolution, torchvision and nn modules for a block."""

from __future__ import annotations

import math

import numpy as np
import torch
from dyhead_kernels import BlockParameters
from torch import Tensor, nn
from torchvision.ops import deform_conv2d


def deform_conv2d_by_loops(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    mask: Tensor | None,
) -> Tensor:
    """The convolution computed one output value at a time, in Python floats; no gradients."""
    input, offset, weight, bias, mask = (t if t is None else t.detach() for t in (input, offset, weight, bias, mask))
    (batch, channels, _, _), (out_channels, group_channels, kh, kw) = input.shape, weight.shape
    out_height, out_width = offset.shape[2:]
    offset_groups = offset.shape[1] // (2 * kh * kw)
    output = torch.zeros(batch, out_channels, out_height, out_width, dtype=torch.float64)
    for n, o, i, j in np.ndindex(*output.shape):
        total = 0.0 if bias is None else float(bias[o])
        group = o // (out_channels // (channels // group_channels))
        for c, ky, kx in np.ndindex(group_channels, kh, kw):
            channel = group * group_channels + c
            tap = (channel // (channels // offset_groups)) * kh * kw + ky * kw + kx
            y = i * stride[0] - padding[0] + ky * dilation[0] + float(offset[n, 2 * tap, i, j])
            x = j * stride[1] - padding[1] + kx * dilation[1] + float(offset[n, 2 * tap + 1, i, j])
            modulation = 1.0 if mask is None else float(mask[n, tap, i, j])
            total += float(weight[o, c, ky, kx]) * modulation * _bilinear(input[n, channel], y, x)
        output[n, o, i, j] = total
    return output


def _bilinear(plane: Tensor, y: float, x: float) -> float:
    total = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * float(plane[row, column])
    return total


class ModuleBlock(nn.Module):
    """A DyHead block put together from torchvision's operator and PyTorch's modules, one map at a time."""

    def __init__(self, parameters: BlockParameters, offset_mode: str, norm_groups: int) -> None:
        super().__init__()
        self.parameters_ = parameters
        self.offset_mode = offset_mode
        self.norm_groups = norm_groups

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        p = self.parameters_
        outputs = []
        for index, level in enumerate(levels):
            offset_mask = nn.functional.conv2d(level, p.offset_weight, p.offset_bias, stride=1, padding=1)
            offset, mask = offset_mask[:, :18], torch.sigmoid(offset_mask[:, 18:])
            maps = [self._convolve(1, level, offset, mask, 1)]
            if index:
                maps.append(self._convolve(2, levels[index - 1], offset, mask, 2))
            if index + 1 < len(levels):
                coarse_offset, coarse_mask = self._shrink(offset, mask, levels[index + 1].shape[2:])
                coarse = self._convolve(0, levels[index + 1], coarse_offset, coarse_mask, 1)
                maps.append(nn.UpsamplingBilinear2d(size=tuple(level.shape[2:]))(coarse))
            weights = [self._scale_attention(m) for m in maps]
            outputs.append(self._dynamic_relu(sum(w * m for w, m in zip(weights, maps, strict=True)) / len(maps)))
        return outputs

    def _convolve(self, which: int, input: Tensor, offset: Tensor, mask: Tensor, stride: int) -> Tensor:
        p = self.parameters_
        bias = None if p.conv_bias is None else p.conv_bias[which]
        output = deform_conv2d(input, offset.contiguous(), p.conv_weight[which], bias, stride, 1, 1, mask.contiguous())
        batch, channels = output.shape[:2]
        grouped = output.reshape(batch, self.norm_groups, -1)
        mean, variance = grouped.mean(2, keepdim=True), grouped.var(2, unbiased=False, keepdim=True)
        normed = ((grouped - mean) / torch.sqrt(variance + 1e-5)).reshape(output.shape)
        return normed * p.norm_weight[which].view(1, channels, 1, 1) + p.norm_bias[which].view(1, channels, 1, 1)

    def _shrink(self, offset: Tensor, mask: Tensor, size: torch.Size) -> tuple[Tensor, Tensor]:
        (height, width), (h, w) = offset.shape[2:], size
        if self.offset_mode == "flat":
            # The raw buffer of an image, read as if its maps were h x w.
            offset_buffer, mask_buffer = offset.contiguous().flatten(1), mask.contiguous().flatten(1)
            return (
                torch.stack([offset_buffer[:, c * h * w : (c + 1) * h * w].view(-1, h, w) for c in range(18)], 1),
                torch.stack([mask_buffer[:, c * h * w : (c + 1) * h * w].view(-1, h, w) for c in range(9)], 1),
            )
        if self.offset_mode == "crop":
            return offset.narrow(2, 0, h).narrow(3, 0, w), mask.narrow(2, 0, h).narrow(3, 0, w)
        rows = _interpolation_matrix(height, h).to(offset)
        columns = _interpolation_matrix(width, w).to(offset)
        offset, mask = (torch.einsum("ay,ncyx,bx->ncab", rows, maps, columns) for maps in (offset, mask))
        dy, dx = offset[:, 0::2] / (height / h), offset[:, 1::2] / (width / w)
        return torch.stack([dy, dx], dim=2).flatten(1, 2), mask

    def _scale_attention(self, features: Tensor) -> Tensor:
        p = self.parameters_
        logit = (nn.AdaptiveAvgPool2d(1)(features) * p.scale_weight.view(1, -1, 1, 1)).sum(1, keepdim=True)
        return _hard_sigmoid(torch.relu(logit + p.scale_bias))

    def _dynamic_relu(self, features: Tensor) -> Tensor:
        p = self.parameters_
        pooled = nn.AdaptiveAvgPool2d(1)(features).flatten(1)
        theta = nn.functional.linear(pooled, p.relu_weight1, p.relu_bias1).relu()
        theta = _hard_sigmoid(nn.functional.linear(theta, p.relu_weight2, p.relu_bias2))
        a1, b1, a2, b2 = torch.split(theta[..., None, None], features.shape[1], dim=1)
        first = features * ((a1 - 0.5) * 2 + 1) + (b1 - 0.5)
        second = features * ((a2 - 0.5) * 2) + (b2 - 0.5)
        return torch.maximum(first, second)


def _interpolation_matrix(large: int, small: int) -> Tensor:
    """(small, large): rows blend the two pixels around `small` points spread evenly from the first to the last one."""
    matrix = torch.zeros(small, large, dtype=torch.float64)
    for row, position in enumerate(np.linspace(0, large - 1, small) if small > 1 else [0.0]):
        low = min(math.floor(position), large - 1)
        matrix[row, low] += 1 - (position - low)
        if position > low:
            matrix[row, low + 1] += position - low
    return matrix


def _hard_sigmoid(logits: Tensor) -> Tensor:
    """nn.Hardsigmoid, whose own 1 / 6 is a float32 even in float64."""
    return (logits / 6 + 0.5).clamp(0, 1)
