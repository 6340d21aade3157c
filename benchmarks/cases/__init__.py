"""Cases to measure, by name: steps of the chain, blocks, a detector."""

from __future__ import annotations

from collections.abc import Callable

from .blocks import block, head
from .case import Case, Operators, Setup
from .deform_conv import deform_conv
from .detector import detector

CASES: dict[str, Callable[[Setup], Case]] = {
    "deform_conv": deform_conv,
    "block": block,
    "head": head,
    "detector": detector,
}

__all__ = ["CASES", "Case", "Operators", "Setup"]
