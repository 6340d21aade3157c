"""Modulated deformable convolution in plain PyTorch, fast on CPUs: blended rows times one matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from ..precision import sampling_dtype
from .packed import torch as packed
from .packed.sampling import OutputMap, sampling_grid
from .packed.torch import Samples

Pair = tuple[int, int]


def forward(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Tensor:
    """Shapes as in `op.modulated_deform_conv2d`, unchecked; weight and bias come in the dtype of the matrix product.

    Blending is done in the common dtype of input and offset, float32 or wider. The result is channels last.
    """
    samples = _samples(input, offset, weight, mask, stride, padding, dilation)
    output = weight.new_empty(*samples.offset.shape[:2], len(weight))
    packed.forward(samples, _matrix(weight, input.shape[1], _offset_groups(offset, weight)), output)
    if bias is not None:
        output += bias
    return output.unflatten(1, offset.shape[2:]).permute(0, 3, 1, 2)


def backward(
    grad_output: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    needs: tuple[bool, bool, bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input (channels last), offset, weight, bias and mask, in their dtypes; only what is needed for sure.

    Columns are blended again: they are never kept.
    """
    input_needed, offset_needed, weight_needed, bias_needed, mask_needed = needs
    samples = _samples(input, offset, weight, mask, stride, padding, dilation)
    channels, offset_groups = input.shape[1], _offset_groups(offset, weight)
    matrix = _matrix(weight, channels, offset_groups)
    grad_rows = torch.zeros_like(samples.rows, dtype=samples.offset.dtype) if input_needed else None
    grad_output = grad_output.permute(0, 2, 3, 1).flatten(1, 2)

    grad_offset = grad_mask = grad_matrix = None
    if input_needed or offset_needed or weight_needed or mask_needed:
        grad_offset, grad_mask, grad_matrix = packed.backward(
            grad_output, samples, matrix, grad_rows, offset_needed or mask_needed, weight_needed
        )
    grad_input = grad_weight = grad_bias = None
    if grad_rows is not None:
        batch, _, height, width = input.shape
        grad_input = grad_rows.view(batch, height, width, channels).permute(0, 3, 1, 2).to(input.dtype)
    if grad_matrix is not None:
        grad_weight = _weight(grad_matrix, weight.shape, channels, offset_groups).to(weight.dtype)
    if bias is not None and bias_needed:
        grad_bias = grad_output.sum(dim=(0, 1), dtype=samples.offset.dtype).to(bias.dtype)
    if grad_offset is not None:
        grad_offset = grad_offset.permute(0, 2, 3, 1).reshape(offset.shape).to(offset.dtype)
    if mask is not None and grad_mask is not None:
        grad_mask = grad_mask.transpose(1, 2).reshape(mask.shape).to(mask.dtype)
    return grad_input, grad_offset, grad_weight, grad_bias, grad_mask


def _offset_groups(offset: Tensor, weight: Tensor) -> int:
    return offset.shape[1] // (2 * weight.shape[2] * weight.shape[3])


def _samples(
    input: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None, stride: Pair, padding: Pair, dilation: Pair
) -> Samples:
    """Samples of an input (N, C, H, W): with G offset groups, an image is H * W * G rows of C / G channels."""
    _, channels, height, width = input.shape
    kernel_height, kernel_width = weight.shape[2:]
    dtype, offset_groups = sampling_dtype(input, offset), _offset_groups(offset, weight)
    grid = sampling_grid(
        input.device,
        (OutputMap((offset.shape[2], offset.shape[3]), (height, width), 0, (stride[0], stride[1])),),
        (kernel_height, kernel_width),
        (padding[0], padding[1]),
        (dilation[0], dilation[1]),
        dtype,
        offset_groups,
    )
    return Samples(
        input.permute(0, 2, 3, 1).reshape(-1, channels // offset_groups).contiguous(),
        offset.to(dtype).flatten(2).unflatten(1, (-1, 2)).permute(0, 3, 1, 2),
        None if mask is None else mask.to(dtype).flatten(2).transpose(1, 2),
        grid,
    )


def _matrix(weight: Tensor, channels: int, offset_groups: int) -> Tensor:
    """(C_out, C / groups, kh, kw) -> (C_out, offset groups * K * C / offset groups).

    Weight groups become zeros: right, but as slow as one group. DyHead has no use for more.
    """
    out_channels, group_channels = weight.shape[:2]
    weight = weight.flatten(2)
    groups = channels // group_channels
    if groups > 1:
        padded = weight.new_zeros(out_channels, groups, *weight.shape[1:])
        padded[_of_group(out_channels, groups, weight.device)] = weight
        weight = padded.flatten(1, 2)
    return weight.unflatten(1, (offset_groups, -1)).transpose(2, 3).flatten(1)


def _weight(matrix: Tensor, shape: torch.Size, channels: int, offset_groups: int) -> Tensor:
    """The transpose of `_matrix`: (C_out, offset groups * K * C / offset groups) -> `shape`, of the weight."""
    out_channels, group_channels = shape[:2]
    groups = channels // group_channels
    weight = matrix.unflatten(1, (offset_groups, -1, channels // offset_groups)).transpose(2, 3).flatten(1, 2)
    if groups > 1:
        weight = weight.unflatten(1, (groups, -1))[_of_group(out_channels, groups, matrix.device)]
    return weight.reshape(shape)


def _of_group(out_channels: int, groups: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Indices of every output channel and of its weight group."""
    group = torch.arange(groups, device=device).repeat_interleave(out_channels // groups)
    return torch.arange(out_channels, device=device), group
