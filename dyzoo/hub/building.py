"""A model is built of a stranger's configuration, but no larger than its file can fill."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

SPARE_PARAMETERS = 100_000_000  # timm builds more than a feature extractor keeps


class TooLargeError(Exception):
    """More parameters than any weights of the file could fill."""


BUILDING_FAILS = (TooLargeError, ValueError, RuntimeError, TypeError, ArithmeticError, MemoryError)
"""Errors that building may end in, whatever the configuration says."""


@contextmanager
def at_most(parameters: int) -> Iterator[None]:
    """Stop this thread from building more: parameters are registered before anything is written to their memory."""
    thread, left = threading.get_ident(), parameters

    def count(module: nn.Module, name: str, parameter: Any) -> None:
        nonlocal left
        if threading.get_ident() == thread and parameter is not None:
            left -= parameter.numel()
            if left < 0:
                raise TooLargeError("it has far more parameters than the weights beside it")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()
