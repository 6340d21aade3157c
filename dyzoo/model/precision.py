"""The number format that a network computes in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch

from dyzoo.errors import SettingError

Precision = Literal["fp32", "bf16", "fp16"]

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: Any, weights: torch.dtype) -> Precision | None:
    """The setting itself.

    Raises:
        ValueError: there is no such precision, or weights of half precision are to be computed with in another.
    """
    if precision is not None and precision not in get_args(Precision):
        raise SettingError(f"precision is {precision!r}, expected {', '.join(map(repr, DTYPES))} or None")
    if precision is not None and weights not in (torch.float32, DTYPES[precision]):
        raise SettingError(
            f"precision is {precision!r}, but the weights are {weights}: leave it out, or call model.float() first"
        )
    return precision


@contextmanager
def computing_in(precision: Precision | None, weights: torch.dtype, device: torch.device) -> Iterator[None]:
    """Convolutions and matrix products of this thread in a precision; None: as it is.

    Autocast, as in training, and no cast copy of the weights: it holds for one thread, needs no second set of weights,
    and leaves in float32 what loses by it (norms, softmax, the places where DyHead samples). Weights that it casts are
    not kept, as a thread that trains in autocast would get them, without their gradients.
    """
    if precision is None or weights != torch.float32:
        yield
        return
    with torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32", cache_enabled=False):
        yield
