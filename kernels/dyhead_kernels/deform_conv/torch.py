"""Modulated deformable convolution in plain PyTorch, fast on CPUs: blended rows times one matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from dyhead_kernels.precision import matmul_dtype, sampling_dtype
from dyhead_kernels.sampled_conv import sampled_conv
from dyhead_kernels.sampling import OutputMap, sampling_grid


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
    """Shapes as in `op.modulated_deform_conv2d`, unchecked. Positions and blending in float32 or wider."""
    batch, channels, height, width = input.shape
    out_channels, group_channels, *kernel_size = weight.shape
    out_size = (offset.shape[2], offset.shape[3])
    taps = kernel_size[0] * kernel_size[1]
    offset_groups = offset.shape[1] // (2 * taps)
    dtype, position_dtype = matmul_dtype(input, weight), sampling_dtype(input, offset)

    grid = sampling_grid(
        (OutputMap(out_size, (height, width), 0, stride),),
        (kernel_size[0], kernel_size[1]),
        padding,
        dilation,
        position_dtype,
        input.device,
        offset_groups,
    )
    offset = offset.to(position_dtype).view(batch, offset_groups * taps, 2, -1).permute(0, 3, 1, 2)
    if mask is not None:
        mask = mask.to(position_dtype).view(batch, offset_groups * taps, -1).transpose(1, 2)
    values = input.flatten(2).transpose(1, 2).reshape(batch, height * width * offset_groups, channels // offset_groups)
    output = sampled_conv(values, offset, mask, _matrix(weight, channels, offset_groups), grid, dtype)
    output = output if bias is None else output + bias.to(dtype)
    return output.view(batch, *out_size, out_channels).permute(0, 3, 1, 2)


def _matrix(weight: Tensor, channels: int, offset_groups: int) -> Tensor:
    """(C_out, C / groups, kh, kw) -> (offset groups * K * C / offset groups, C_out), zero between weight groups."""
    out_channels, group_channels = weight.shape[:2]
    weight = weight.flatten(2)
    groups = channels // group_channels
    if groups > 1:
        own = torch.eye(groups, dtype=weight.dtype, device=weight.device).repeat_interleave(out_channels // groups, 0)
        weight = (own[:, :, None, None] * weight[:, None]).flatten(1, 2)
    per_offset_group = weight.view(out_channels, offset_groups, channels // offset_groups, -1)
    return per_offset_group.permute(0, 1, 3, 2).flatten(1)
