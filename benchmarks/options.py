"""Choices, defaults and meanings of the options of all commands. Imports no part of a benchmark, and torch late."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import typer

from dyzoo.errors import first_line

if TYPE_CHECKING:
    import torch

CASE_NAMES = ("deform_conv", "block", "head", "detector")
EMBEDDED = "embedded"  # the detector that the package has with it
CPU_CASES = ("deform_conv", "block", "head", EMBEDDED, "detector")
LOADS = ("none", "full", "pool")
GROWTH_AXES = ("pixels", "batch", "channels", "blocks", "classes")
CASE_ALIASES = {"convolution": "deform_conv"}  # former names, in commands and in files of results
CPU_DEFAULTS = {"cases": ("deform_conv", "head"), "size": "640x640", "dtype": "float32", "rounds": 3}
GPU_DEFAULTS = {"cases": CASE_NAMES, "size": "800x1344", "dtype": "bfloat16", "rounds": 10}
PASS_NAMES = {"forward": "forward", "training": "training step", "training step": "training step"}
LEAST_PX = 8


def device_of(name: str | None) -> torch.device:
    """The device of that name, made the current one; without a name a GPU if there is one."""
    import torch

    try:
        device = torch.empty(0, device=name or ("cuda" if torch.cuda.is_available() else "cpu")).device
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise typer.BadParameter(f"{name!r} cannot be used: {first_line(error)}", param_hint="--device") from None
    if device.type not in ("cpu", "cuda"):
        raise typer.BadParameter(f"{name!r} is neither a CPU nor a CUDA device", param_hint="--device")
    if device.type == "cuda":
        torch.cuda.set_device(device)  # events and graphs are made on the current one
    return device


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 2)


def size_of(text: str) -> tuple[int, int]:
    """(height, width) of "800x1344"."""
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text, re.ASCII)
    if not found or min(map(int, found.groups())) < LEAST_PX:
        raise typer.BadParameter(f"{text[:20]!r} is no HEIGHTxWIDTH in pixels, as in 800x1344", param_hint="--size")
    return int(found[1]), int(found[2])


def choose(name: str, known: Any, option: str) -> str:
    """The name, which has to be one of those known; else the error lists them."""
    if name not in known:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(known)}", param_hint=option)
    return name
