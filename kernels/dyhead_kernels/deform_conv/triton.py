"""Modulated deformable convolution of one map as a Triton kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from ..device_cache import DeviceCache, cached_on_device
from ..launch.tables import MOST_LAYOUTS, Maps, Segment
from .packed import triton as packed
from .packed.triton import Convolution, Operands

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
    """Shapes as in `op.modulated_deform_conv2d`, unchecked; input, weight and bias in the dtype of the matrix product.

    Blending and sums are float32. The result is channels last.
    """
    convolution = _convolution(input, offset, weight, mask, padding, dilation)
    operands = _operands(input, offset, weight, mask, stride)
    batch, _, height, width = offset.shape
    output = weight.new_empty(batch, height, width, len(weight))
    packed.forward(convolution, operands, None if bias is None else bias.contiguous(), output, None)
    return output.permute(0, 3, 1, 2)


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
    """Gradients of input (channels last), offset, weight, bias and mask, in their dtypes; None for what is not needed.

    The gradient of the input is a sum of float atomics, whose order varies, unless PyTorch's deterministic algorithms
    are on: then it is counted in 64-bit integers.
    """
    input_needed, offset_needed, weight_needed, bias_needed, mask_needed = needs
    convolution = _convolution(input, offset, weight, mask, padding, dilation)
    operands = _operands(input, offset, weight, mask, stride)
    grad_rows = grad_output.permute(0, 2, 3, 1).to(weight.dtype).contiguous()

    grad_input = grad_offset = grad_mask = grad_weight = grad_bias = None
    if offset_needed or mask_needed:
        grad_offset = torch.empty_like(offset, dtype=torch.float32, memory_format=torch.contiguous_format)
        if mask is not None:
            grad_mask = torch.empty_like(mask, dtype=torch.float32, memory_format=torch.contiguous_format)
    sums = packed.ValuesGradient.like(convolution, operands, grad_rows, False) if input_needed else None
    if sums is not None or grad_offset is not None:
        packed.backward(convolution, operands, grad_rows, sums, grad_offset, grad_mask)
    if sums is not None:
        grad_map = sums.total().view(len(input), *input.shape[2:], input.shape[1])
        grad_input = grad_map.permute(0, 3, 1, 2).to(input.dtype)
    if weight_needed:
        taps_last = packed.weight_backward(convolution, operands, grad_rows)[0].transpose(1, 2)
        grad_weight = taps_last.reshape(weight.shape).to(weight.dtype)
    if bias is not None and bias_needed:
        grad_bias = grad_rows.sum(dim=(0, 1, 2), dtype=torch.float32).to(bias.dtype)
    return (
        grad_input,
        None if grad_offset is None or not offset_needed else grad_offset.to(offset.dtype),
        grad_weight,
        grad_bias,
        None if mask is None or grad_mask is None or not mask_needed else grad_mask.to(mask.dtype),
    )


def _convolution(
    input: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None, padding: Pair, dilation: Pair
) -> Convolution:
    kernel = (weight.shape[2], weight.shape[3])
    return Convolution(
        in_channels=input.shape[1],
        out_channels=len(weight),
        kernel=kernel,
        padding=(padding[0], padding[1]),
        dilation=(dilation[0], dilation[1]),
        groups=input.shape[1] // weight.shape[1],
        offset_groups=offset.shape[1] // (2 * kernel[0] * kernel[1]),
        has_mask=mask is not None,
    )


def _operands(input: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None, stride: Pair) -> Operands:
    offset = offset.contiguous()
    return Operands(
        values=input.permute(0, 2, 3, 1).flatten(1, 2).contiguous(),
        offset=offset,
        mask=offset if mask is None else mask.contiguous(),
        weight=weight.permute(0, 2, 3, 1).flatten(1, 2).contiguous().unsqueeze(0),
        segments=_one_map(
            input.device, input.shape[2], input.shape[3], offset.shape[2], offset.shape[3], stride[0], stride[1]
        ),
    )


@cached_on_device(MOST_LAYOUTS)
def _one_map(
    cache: DeviceCache,
    source_height: int,
    source_width: int,
    height: int,
    width: int,
    stride_y: int,
    stride_x: int,
) -> Maps:
    segment = Segment(
        height=height,
        width=width,
        row_start=0,
        row_image=height * width,
        source_start=0,
        source_height=source_height,
        source_width=source_width,
        stride_y=stride_y,
        stride_x=stride_x,
        offset_channel=height * width,
        offset_line=width,
    )
    return Maps((segment,), cache)
