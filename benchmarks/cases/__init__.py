"""What is measured, by name."""

from __future__ import annotations

from collections.abc import Callable

from .blocks import block, head
from .case import Case, Operators, Setup
from .convolution import convolution
from .detector import detector

CASES: dict[str, Callable[[Setup], Case]] = {
    "convolution": convolution,
    "block": block,
    "head": head,
    "detector": detector,
}

__all__ = ["CASES", "Case", "Operators", "Setup"]
