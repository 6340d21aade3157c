"""Which form of an operator runs: the argument `backend`, else DYHEAD_KERNELS_BACKEND, else the fastest there is."""

from __future__ import annotations

import os
from typing import Literal, cast, get_args

Backend = Literal["reference", "torch"]

ENVIRONMENT_VARIABLE = "DYHEAD_KERNELS_BACKEND"


def resolve_backend(requested: str) -> Backend:
    """Turn "auto" into a form by name. An explicit `requested` wins over the environment.

    Raises:
        ValueError: the argument or the environment variable names no form.
    """
    source, name = "backend", requested
    if requested == "auto":
        source, name = ENVIRONMENT_VARIABLE, os.environ.get(ENVIRONMENT_VARIABLE, "auto")
    if name == "auto":
        return "torch"
    if name not in get_args(Backend):
        raise ValueError(f"{source} is {name!r}, expected one of auto, {', '.join(get_args(Backend))}")
    return cast(Backend, name)
