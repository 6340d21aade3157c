"""Dtypes in which the parts of an operator compute."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from typing import Any

import torch
from torch import Tensor


def common_dtype(*tensors: Tensor | None) -> torch.dtype:
    """The dtype that holds them all, by PyTorch's promotion rules."""
    return reduce(torch.promote_types, (tensor.dtype for tensor in tensors if tensor is not None))


def matmul_dtype(*operands: Tensor) -> torch.dtype:
    """Autocast's dtype where it is on, else the operands' common one; autocast leaves float64 alone."""
    dtype, device_type = common_dtype(*operands), operands[0].device.type
    if _autocast_is_on(device_type) and dtype != torch.float64:
        return torch.get_autocast_dtype(device_type)
    return dtype


def sampling_dtype(*operands: Tensor) -> torch.dtype:
    """Dtype of positions, blending weights and statistics: the operands' common one, at least float32."""
    return torch.promote_types(common_dtype(*operands), torch.float32)


def to_common_dtype(*tensors: Tensor | None) -> tuple[Any, ...]:
    """Every tensor in their common dtype; None stays None."""
    dtype = common_dtype(*tensors)
    return tuple(None if tensor is None else tensor.to(dtype) for tensor in tensors)


def without_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """Autocast off where it is on for `tensor`'s device: inside an operator every dtype is chosen already."""
    device_type = tensor.device.type
    if _autocast_is_on(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def _autocast_is_on(device_type: str) -> bool:
    """False on the meta device, too, which has no autocast. (`is_autocast_available` would break a compiled graph.)"""
    return device_type != "meta" and torch.is_autocast_enabled(device_type)
