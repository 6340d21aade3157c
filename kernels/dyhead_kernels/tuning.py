"""Launch parameters of the Triton kernels: a table per GPU in `configs/`, a default for all others.

A table maps kernel -> "half", "float32" or "any" -> parameters: block sizes, tile width, warps, pipeline stages.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch

FOLDER = Path(__file__).parent / "configs"
DEFAULT = "default"

Parameters = Mapping[str, int]
Table = Mapping[str, Mapping[str, Parameters]]

_overrides: list[Table] = []


def table_name(device: torch.device) -> str:
    """The name of the table for a device: "nvidia_h100_80gb_hbm3"."""
    return re.sub(r"[^a-z0-9]+", "_", torch.cuda.get_device_name(device).lower()).strip("_")


@lru_cache(maxsize=16)
def load_table(name: str) -> Table:
    """The table `configs/<name>.json`, missing entries filled from the default one.

    Raises:
        FileNotFoundError: there is no such table.
    """
    table: dict[str, dict[str, Parameters]] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    if name == DEFAULT:
        return table
    default = load_table(DEFAULT)
    return {kernel: {**default[kernel], **table.get(kernel, {})} for kernel in default}


def launch_parameters(kernel: str, dtype: torch.dtype, device: torch.device) -> dict[str, int]:
    """Parameters of `kernel` for maps of `dtype`; warns once if the device has no table of its own."""
    for table in [*reversed(_overrides), _table_of(device)]:
        if kernel in table:
            kinds = table[kernel]
            return dict(kinds.get("any") or kinds["float32" if dtype == torch.float32 else "half"])
    raise KeyError(f"no launch parameters for {kernel}")


@contextmanager
def overriding(table: Table) -> Iterator[None]:
    """Use `table` where it has an entry for a kernel: for tuning, and for tests."""
    _overrides.append(table)
    try:
        yield
    finally:
        _overrides.remove(table)


@lru_cache(maxsize=16)
def _table_of(device: torch.device) -> Table:
    if device.type != "cuda":  # the interpreter
        return load_table(DEFAULT)
    name = table_name(device)
    if not (FOLDER / f"{name}.json").is_file():
        warnings.warn(
            f"no tuned launch parameters for {torch.cuda.get_device_name(device)}; using the defaults. "
            "`python -m benchmarks tune` makes a table",
            stacklevel=2,
        )
        name = DEFAULT
    return load_table(name)
