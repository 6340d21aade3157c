"""The form of an operator that runs: the argument `backend`, else DYHEAD_KERNELS_BACKEND, else the fastest there is.

The environment is read here and nowhere else in the package.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Literal, cast, get_args

import torch

Backend = Literal["reference", "torch", "triton"]

ENVIRONMENT_VARIABLE = "DYHEAD_KERNELS_BACKEND"
NATIVE_VARIABLE = "DYHEAD_KERNELS_NATIVE"
TRITON_IS_INSTALLED = find_spec("triton") is not None  # looked for, not imported
TRITON_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
WAY_OUT = 'pass backend="torch" or backend="reference"'


def resolve_backend(requested: str, device: torch.device) -> Backend:
    """Turn "auto" into a form by name: "triton" on CUDA devices, else "torch".

    An explicit `requested` wins over the environment. `torch.compile` reads the environment once, when it traces.

    Raises:
        ValueError: the argument or the environment variable names no form.
    """
    source, name = "backend", requested
    if requested == "auto":
        source, name = ENVIRONMENT_VARIABLE, os.environ.get(ENVIRONMENT_VARIABLE, "auto")
    if name == "auto":
        return "triton" if device.type == "cuda" else "torch"
    if name not in get_args(Backend):
        raise ValueError(f"{source} is {name!r}, expected one of auto, {', '.join(get_args(Backend))}")
    return cast(Backend, name)


def kernels_are_interpreted() -> bool:
    """Whether Triton interprets kernels instead of compiling them."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def native_is_wanted() -> bool:
    """Whether the form for CPUs may compile its inner loops: unless DYHEAD_KERNELS_NATIVE is 0."""
    return os.environ.get(NATIVE_VARIABLE, "1") != "0"


def compiler_name() -> str:
    """The C++ compiler, by the variable that everybody's build tools read."""
    return os.environ.get("CXX") or "g++"


def cache_folder() -> Path:
    """The folder of what is compiled for CPUs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dyhead_kernels"


def check_triton(device: torch.device, dtype: torch.dtype) -> None:
    """Raise unless the Triton form can compute on `device` with a matrix product in `dtype`.

    Raises:
        RuntimeError: no triton here, or a device that it does not compile for and TRITON_INTERPRET=1 is not set.
        TypeError: a dtype other than float32, float16 and bfloat16.
    """
    if not TRITON_IS_INSTALLED:
        raise RuntimeError(f"triton is not installed, expected for backend 'triton': install it, or {WAY_OUT}")
    if device.type != "cuda" and not kernels_are_interpreted():
        raise RuntimeError(
            f"the input is on {device}, expected a CUDA device for backend 'triton': move it there, set "
            f"TRITON_INTERPRET=1 to interpret the kernels (slow), or {WAY_OUT}"
        )
    if dtype not in TRITON_DTYPES:
        raise TypeError(
            f"the matrix product is in {dtype}, expected float32, float16 or bfloat16 for backend 'triton': "
            f"convert the input and the weights, or {WAY_OUT}"
        )


@cache
def form_of(operator: str, backend: Backend) -> ModuleType:
    """The module of an operator's form, imported when first asked for: Triton takes long, and is not everywhere."""
    return import_module(f".{operator}.{backend}", __package__)
