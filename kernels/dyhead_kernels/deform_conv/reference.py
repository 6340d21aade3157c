"""Modulated deformable convolution step by step: any floating dtype, any device, differentiable."""

from __future__ import annotations

import torch
from torch import Tensor

from ..precision import to_common_dtype


def modulated_deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    mask: Tensor | None,
) -> Tensor:
    """DCNv2 (Zhu et al., CVPR 2019) as the formula has it; shapes as in `op.modulated_deform_conv2d`, unchecked.

    y(p) = sum_k W_k (mask_k(p) * x(p * stride - padding + k * dilation + offset_k(p))), x bilinear, zero outside.
    Computes in the common dtype of its arguments, autocast or not.
    """
    input, offset, weight, bias, mask = to_common_dtype(input, offset, weight, bias, mask)
    batch, channels, _, _ = input.shape
    out_channels, group_channels, kernel_height, kernel_width = weight.shape
    groups = channels // group_channels
    height, width = offset.shape[-2:]
    offset = offset.unflatten(1, (-1, kernel_height, kernel_width, 2))
    if mask is None:
        mask = torch.ones_like(offset[:, :, :, :, 0])
    else:
        mask = mask.unflatten(1, (-1, kernel_height, kernel_width))
    input = input.unflatten(1, (offset.shape[1], -1))
    rows = torch.arange(height, device=input.device).view(-1, 1) * stride[0] - padding[0]
    columns = torch.arange(width, device=input.device) * stride[1] - padding[1]

    output = input.new_zeros(batch, groups, out_channels // groups, height, width)
    with torch.autocast(input.device.type, enabled=False):
        for ky in range(kernel_height):
            for kx in range(kernel_width):
                y = rows + ky * dilation[0] + offset[:, :, ky, kx, 0]
                x = columns + kx * dilation[1] + offset[:, :, ky, kx, 1]
                sampled = _bilinear(input, y, x) * mask[:, :, ky, kx].unsqueeze(2)
                grouped = sampled.flatten(1, 2).unflatten(1, (groups, group_channels))
                tap = weight[:, :, ky, kx].unflatten(0, (groups, -1))
                output = output + torch.einsum("ngchw,goc->ngohw", grouped, tap)
    output = output.flatten(1, 2)
    return output if bias is None else output + bias.view(-1, 1, 1)


def _bilinear(input: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Sample (N, G, C, H, W) at (y, x), each (N, G, H_out, W_out) in pixels -> (N, G, C, H_out, W_out)."""
    top, left = y.floor(), x.floor()
    below, right = y - top, x - left
    return (
        _pixel(input, top, left) * ((1 - below) * (1 - right)).unsqueeze(2)
        + _pixel(input, top, left + 1) * ((1 - below) * right).unsqueeze(2)
        + _pixel(input, top + 1, left) * (below * (1 - right)).unsqueeze(2)
        + _pixel(input, top + 1, left + 1) * (below * right).unsqueeze(2)
    )


def _pixel(input: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The pixels at whole (y, x); zero outside the map."""
    height, width = input.shape[-2:]
    inside = ((y >= 0) & (y < height) & (x >= 0) & (x < width)).unsqueeze(2)
    line, column = (  # a NaN must not become an address: its share of the blend is NaN already
        position.nan_to_num(0.0).clamp(0, length - 1).long() for position, length in ((y, height), (x, width))
    )
    index = line * width + column
    index = index.unsqueeze(2).flatten(3).expand(-1, -1, input.shape[2], -1)
    return input.flatten(3).gather(3, index).unflatten(3, y.shape[-2:]) * inside
