"""The dtypes that a case is measured in, and what they mean for PyTorch's switches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Precision:
    """A dtype by name, with what float32 operands of matrix products may be rounded to while it is measured.

    Attributes:
        tf32_matmul, tf32_cudnn: whether float32 products and cuDNN's float32 convolutions may use TF32.
    """

    name: str
    dtype: torch.dtype
    tf32_matmul: bool
    tf32_cudnn: bool

    @property
    def is_half(self) -> bool:
        """Whether a value takes two bytes."""
        return self.dtype.itemsize == 2


# A half-precision case leaves PyTorch's own defaults to the float32 provider beside it: that is what its users get.
PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("float32", torch.float32, tf32_matmul=False, tf32_cudnn=False),
        Precision("tf32", torch.float32, tf32_matmul=True, tf32_cudnn=True),
        Precision("float16", torch.float16, tf32_matmul=False, tf32_cudnn=True),
        Precision("bfloat16", torch.bfloat16, tf32_matmul=False, tf32_cudnn=True),
    )
}
ALIASES = {"fp32": "float32", "fp16": "float16", "half": "float16", "bf16": "bfloat16"}


@contextmanager
def tf32(matmul: bool, cudnn: bool) -> Iterator[None]:
    """Allow or forbid TF32 inside, and put the switches back."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
