"""Modulated deformable convolution: argument checks, the choice of a form, and the custom op that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._ops import add_op_namespace_prefix, ops
from ..backends import check_triton, form_of, resolve_backend
from ..checks import check_kind, check_shape
from ..precision import matmul_dtype, without_autocast
from . import reference

TENSORS = 5  # input, offset, weight, bias, mask
GRADIENT_FORMATS = (torch.channels_last, *[torch.contiguous_format] * (TENSORS - 1))
_ARGUMENTS = (
    "Tensor input, Tensor offset, Tensor weight, Tensor? bias, Tensor? mask, "
    "SymInt[] stride, SymInt[] padding, SymInt[] dilation, str backend"
)


def modulated_deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    mask: Tensor | None = None,
    *,
    backend: str = "auto",
) -> Tensor:
    """Deformable convolution v1 (no mask) or v2, argument for argument like `torchvision.ops.deform_conv2d`.

    Args:
        input: (N, C, H, W).
        offset: (N, 2 * G * K, H_out, W_out), per offset group K pairs (dy, dx) in input pixels.
        weight: (C_out, C / groups, kh, kw), K = kh * kw.
        bias: (C_out,) or None.
        mask: (N, G * K, H_out, W_out) or None.
        backend: "auto", "reference", "torch" or "triton"; "auto" asks DYHEAD_KERNELS_BACKEND, else the device.

    Returns:
        (N, C_out, H_out, W_out), in the common dtype of `input` and `weight`, or autocast's where it is on; channels
        last in memory. The reference ignores autocast, computes in the common dtype of all its arguments and is the
        only form with second derivatives.

    Raises:
        ValueError: shapes that do not fit each other, or an unknown backend.
        TypeError: an input that is not floating point, tensors on different devices, a dtype that Triton cannot serve.
        RuntimeError: the Triton form is asked for where it cannot run.
    """
    stride, padding, dilation = _pair("stride", stride), _pair("padding", padding), _pair("dilation", dilation)
    _check(input, offset, weight, bias, stride, padding, dilation, mask)
    form = resolve_backend(backend, input.device)
    if form == "reference":
        return reference.modulated_deform_conv2d(input, offset, weight, bias, stride, padding, dilation, mask)
    dtype = matmul_dtype(input, weight)
    if form == "triton":
        check_triton(input.device, dtype)
        input = input.to(dtype)  # the plain form blends in float32 whatever comes, so there it is spared the rounding
    weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
    output: Tensor = ops.deform_conv(input, offset, weight, bias, mask, stride, padding, dilation, form)
    return output


@torch.library.custom_op(add_op_namespace_prefix("deform_conv"), mutates_args=(), schema=f"({_ARGUMENTS}) -> Tensor")
def _forward(input: Tensor, *arguments: Any) -> Tensor:
    with without_autocast(input):
        output: Tensor = form_of("deform_conv", arguments[-1]).forward(input, *arguments[:-1])
    return output


@_forward.register_fake
def _(input: Tensor, offset: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    batch, _, height, width = offset.shape
    return weight.new_empty(batch, height, width, weight.shape[0]).permute(0, 3, 1, 2)


@torch.library.custom_op(
    add_op_namespace_prefix("deform_conv_backward"),
    mutates_args=(),
    schema=f"(Tensor grad_output, {_ARGUMENTS}, bool[] needs) -> Tensor[]",
)
def _backward(grad_output: Tensor, *arguments: Any) -> list[Tensor]:
    """Gradients of input (channels last), offset, weight, bias and mask; (0,) where none is needed."""
    backend, needs = arguments[-2:]
    with without_autocast(grad_output):
        grads = form_of("deform_conv", backend).backward(grad_output, *arguments[:-2], tuple(needs))
    return [
        grad.contiguous(memory_format=memory_format) if need else grad_output.new_empty(0)
        for grad, memory_format, need in zip(grads, GRADIENT_FORMATS, needs, strict=True)
    ]


@_backward.register_fake
def _(grad_output: Tensor, *arguments: Any) -> list[Tensor]:
    needs: Sequence[bool] = arguments[-1]
    return [
        torch.empty_like(tensor, memory_format=memory_format) if need else grad_output.new_empty(0)
        for tensor, memory_format, need in zip(arguments[:TENSORS], GRADIENT_FORMATS, needs, strict=True)
    ]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:TENSORS])
    ctx.options = inputs[TENSORS:]


def _autograd(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    needs = list(ctx.needs_input_grad[:TENSORS])
    grads = ops.deform_conv_backward(grad_output, *ctx.saved_tensors, *ctx.options, needs)
    wanted = (grad if need else None for grad, need in zip(grads, needs, strict=True))
    return *wanted, *(None for _ in ctx.options)


def _no_second_derivative(ctx: Any, *grads: Any) -> None:
    raise RuntimeError(
        'modulated_deform_conv2d has no second derivative in this form: pass backend="reference", which has'
    )


_forward.register_autograd(_autograd, setup_context=_setup_context)
_backward.register_autograd(_no_second_derivative)


def _pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    least = 0 if name == "padding" else 1
    pair = (value, value) if isinstance(value, int) else value
    if not isinstance(pair, (tuple, list)):
        raise ValueError(f"{name} is a {type(value).__name__}, expected an integer or a pair of them")
    if len(pair) != 2 or not all(isinstance(number, int) and number >= least for number in pair):
        raise ValueError(f"{name} is {value!r}, expected an integer or a pair of them, at least {least}")
    return pair[0], pair[1]


def _check(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    mask: Tensor | None,
) -> None:
    for name, tensor in {"input": input, "offset": offset, "weight": weight, "bias": bias, "mask": mask}.items():
        if tensor is not None:
            check_kind(name, tensor, input.device)
            if name != "bias" and tensor.ndim != 4:
                raise ValueError(f"{name} is {tuple(tensor.shape)}, expected four dimensions")
    batch, channels, height, width = input.shape
    out_channels, group_channels, *kernel = weight.shape
    groups = channels // max(group_channels, 1)
    if groups < 1 or groups * group_channels != channels or out_channels % groups:
        raise ValueError(
            f"weight is {tuple(weight.shape)}, expected (C_out, {channels} / groups, kh, kw) with groups dividing "
            f"C_out: the input has {channels} channels"
        )
    taps = kernel[0] * kernel[1]
    if taps == 0:
        raise ValueError(f"weight is {tuple(weight.shape)}, expected a kernel of at least one tap")
    spans = [
        size + 2 * pad - step * (length - 1)
        for size, pad, step, length in zip((height, width), padding, dilation, kernel, strict=True)
    ]
    if min(spans) < 1:
        raise ValueError(
            f"input is {tuple(input.shape)}, expected a map no smaller than the kernel {tuple(kernel)} with dilation "
            f"{dilation}: raise padding, which is {padding}"
        )
    out_size = [(span - 1) // step + 1 for span, step in zip(spans, stride, strict=True)]
    offset_groups = max(1, offset.shape[1] // (2 * taps))
    expected = (batch, 2 * offset_groups * taps, *out_size)
    check_shape("offset", offset, expected, "offsets live on the output grid, one pair per tap and offset group")
    if channels % offset_groups:
        raise ValueError(
            f"offset is {tuple(offset.shape)}, that is {offset_groups} offset groups, expected a divisor of the "
            f"{channels} input channels"
        )
    if mask is not None:
        check_shape("mask", mask, (batch, offset_groups * taps, *out_size), "one value for each offset pair")
    if bias is not None:
        check_shape("bias", bias, (out_channels,), "one value for each output channel")
