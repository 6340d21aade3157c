"""Which dtype each part of a fast form computes in."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor


def matmul_dtype(*operands: Tensor) -> torch.dtype:
    """Autocast's dtype where it is on, else the operands' promoted dtype."""
    device_type = operands[0].device.type
    if torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return reduce(torch.promote_types, (operand.dtype for operand in operands))


def sampling_dtype(*operands: Tensor) -> torch.dtype:
    """Of positions, blending weights and statistics: the operands' promoted dtype, at least float32."""
    return reduce(torch.promote_types, (operand.dtype for operand in operands), torch.float32)
