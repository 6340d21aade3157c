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
    """Shapes as in `op.modulated_deform_conv2d`, unchecked.

    Blending is done in float32 or wider, the product in autocast's dtype where it is on. The result is channels last.
    """
    batch, channels, height, width = input.shape
    kernel_height, kernel_width = weight.shape[2:]
    out_size = (offset.shape[2], offset.shape[3])
    offset_groups = offset.shape[1] // (2 * kernel_height * kernel_width)
    dtype, blend_dtype = matmul_dtype(input, weight), sampling_dtype(input, offset)

    grid = sampling_grid(
        (OutputMap(out_size, (height, width), 0, stride),),
        (kernel_height, kernel_width),
        padding,
        dilation,
        blend_dtype,
        input.device,
        offset_groups,
    )
    offset = offset.to(blend_dtype).flatten(2).unflatten(1, (-1, 2)).permute(0, 3, 1, 2)
    mask = None if mask is None else mask.to(blend_dtype).flatten(2).transpose(1, 2)
    pixels = input.flatten(2).transpose(1, 2)
    values = pixels.reshape(batch, height * width * offset_groups, channels // offset_groups)
    output = sampled_conv(values, offset, mask, _matrix(weight, channels, offset_groups), grid, dtype)
    if bias is not None:
        output += bias.to(dtype)
    return output.unflatten(1, out_size).permute(0, 3, 1, 2)


def _matrix(weight: Tensor, channels: int, offset_groups: int) -> Tensor:
    """(C_out, C / groups, kh, kw) -> (C_out, offset groups * K * C / offset groups).

    Weight groups become zeros: right, but as slow as one group. DyHead has no use for more.
    """
    out_channels, group_channels = weight.shape[:2]
    weight = weight.flatten(2)
    groups = channels // group_channels
    if groups > 1:
        padded = weight.new_zeros(out_channels, groups, *weight.shape[1:])
        group = torch.arange(groups, device=weight.device).repeat_interleave(out_channels // groups)
        weight = padded.index_put((torch.arange(out_channels, device=weight.device), group), weight).flatten(1, 2)
    return weight.unflatten(1, (offset_groups, -1)).transpose(2, 3).flatten(1)
