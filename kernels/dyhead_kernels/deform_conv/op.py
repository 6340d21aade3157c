"""Modulated deformable convolution: argument checks and the choice of a form."""

from __future__ import annotations

from torch import Tensor

from dyhead_kernels.backends import resolve_backend
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
        (N, C_out, H_out, W_out), in the dtype of the matrix product (autocast's where it is on).

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
    if len(pair) != 2 or not all(isinstance(v, int) and v >= least for v in pair):
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
    tensors = {"input": input, "offset": offset, "weight": weight, "bias": bias, "mask": mask}
    for name, tensor in tensors.items():
        if tensor is not None and not tensor.is_floating_point():
            raise TypeError(f"{name} is {tensor.dtype}, expected a floating-point tensor")
        if tensor is not None and tensor.device != input.device:
            raise TypeError(f"{name} is on {tensor.device}, expected {input.device} like input")
    for name in ("input", "offset", "weight"):
        if tensors[name].ndim != 4:  # type: ignore[union-attr]
            raise ValueError(f"{name} is {tuple(tensors[name].shape)}, expected four dimensions")  # type: ignore[union-attr]
    batch, channels, *size = input.shape
    out_channels, group_channels, *kernel_size = weight.shape
    if group_channels == 0 or channels % group_channels or out_channels % (channels // group_channels):
        raise ValueError(
            f"weight is {tuple(weight.shape)} for {channels} input channels, expected (C_out, {channels} / groups, "
            "kh, kw) with groups dividing both"
        )
    taps = kernel_size[0] * kernel_size[1]
    out_size = tuple(
        (size[axis] + 2 * padding[axis] - dilation[axis] * (kernel_size[axis] - 1) - 1) // stride[axis] + 1
        for axis in range(2)
    )
    if min(out_size) < 1:
        raise ValueError(f"input is {tuple(input.shape)}: the kernel {tuple(kernel_size)} does not fit into its padding")
    offset_groups = max(1, offset.shape[1] // (2 * taps))
    expected = (batch, 2 * taps * offset_groups, *out_size)
    if tuple(offset.shape) != expected:
        raise ValueError(f"offset is {tuple(offset.shape)}, expected {expected}: offsets live on the output grid")
    if channels % offset_groups:
        raise ValueError(f"offset has {offset_groups} offset groups, expected a divisor of {channels} input channels")
    expected = (batch, taps * offset_groups, *out_size)
    if mask is not None and tuple(mask.shape) != expected:
        raise ValueError(f"mask is {tuple(mask.shape)}, expected {expected}: one value per offset pair")
    if bias is not None and tuple(bias.shape) != (out_channels,):
        raise ValueError(f"bias is {tuple(bias.shape)}, expected ({out_channels},)")
