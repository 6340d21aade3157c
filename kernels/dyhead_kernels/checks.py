"""Checks at the door that every operator shares: they name the tensor, what came and what was expected."""

from __future__ import annotations

import torch
from torch import Tensor


def check_kind(name: str, tensor: Tensor, device: torch.device) -> None:
    """Raise a TypeError unless `tensor` is floating point and on `device`."""
    if not tensor.is_floating_point():
        raise TypeError(f"{name} is {tensor.dtype}, expected a floating-point tensor")
    if tensor.device != device:
        raise TypeError(f"{name} is on {tensor.device}, expected {device} like the input")


def check_shape(name: str, tensor: Tensor, expected: tuple[int, ...], why: str) -> None:
    """Raise a ValueError that ends in `why` unless `tensor` has the expected shape."""
    if tuple(tensor.shape) != expected:
        raise ValueError(f"{name} is {tuple(tensor.shape)}, expected {expected}: {why}")
