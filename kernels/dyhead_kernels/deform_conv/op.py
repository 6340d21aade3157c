"""Modulated deformable convolution: argument checks and the choice of a form."""

from __future__ import annotations

from torch import Tensor

from dyhead_kernels.backends import resolve_backend
from dyhead_kernels.checks import check_kind, check_shape
from dyhead_kernels.deform_conv import reference
from dyhead_kernels.deform_conv import torch as torch_form

FORMS = {"reference": reference.modulated_deform_conv2d, "torch": torch_form.modulated_deform_conv2d}


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
        backend: "auto", "reference" or "torch"; "auto" asks DYHEAD_KERNELS_BACKEND.

    Returns:
        (N, C_out, H_out, W_out), in the common dtype of `input` and `weight`, or autocast's where it is on. The
        reference ignores autocast and computes in the common dtype of all its arguments.

    Raises:
        ValueError: shapes that do not fit each other, or an unknown backend.
        TypeError: an input that is not floating point, or tensors on different devices.
    """
    stride, padding, dilation = _pair("stride", stride), _pair("padding", padding), _pair("dilation", dilation)
    _check(input, offset, weight, bias, stride, padding, dilation, mask)
    return FORMS[resolve_backend(backend)](input, offset, weight, bias, stride, padding, dilation, mask)


def _pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    least = 0 if name == "padding" else 1
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
