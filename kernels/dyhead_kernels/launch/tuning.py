"""Launch parameters of the Triton kernels: a table per GPU in `configs/`, for other GPUs one that fits.

`default.json` fits every GPU with 99 KiB of shared memory; `sm_80.json` and its like hold what an architecture needs or
can have instead; a GPU's own table holds what was measured on it. Each lies over the one before.

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

FOLDER = Path(__file__).parents[1] / "configs"
DEFAULT = "default"

KINDS = ("half", "float32", "any")
OPTIONAL = ("num_stages", "maxnreg")
"""Parameters that an entry may have though the default's has not."""
FLAGS = ("WINDOWED",)
"""Parameters that are 0 or 1."""

Parameters = Mapping[str, int]
Table = Mapping[str, Mapping[str, Parameters]]

_overrides: list[Table] = []


class TableError(ValueError):
    """A table that this version of the kernels cannot use."""


def table_name(device: torch.device) -> str:
    """The name of the table for a device: "nvidia_h100_80gb_hbm3"."""
    return re.sub(r"[^a-z0-9]+", "_", torch.cuda.get_device_name(device).lower()).strip("_")


def architecture_of(device: torch.device) -> str:
    """The name of the table of a device's architecture: "sm_90", "gfx942"."""
    if torch.version.hip is not None:
        return str(torch.cuda.get_device_properties(device).gcnArchName).split(":")[0]
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))


@lru_cache(maxsize=16)
def load_table(name: str, folder: Path = FOLDER, base: str = DEFAULT) -> Table:
    """The table `<folder>/<name>.json`, missing entries filled from the shipped table `base`.

    Raises:
        FileNotFoundError: there is no such table.
        TableError: it is not one, or has an entry that these kernels do not know.
    """
    if name == DEFAULT:
        return json.loads((FOLDER / f"{DEFAULT}.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    own, beneath = read_table(folder / f"{name}.json"), load_table(base)
    merged = {}
    for kernel, entries in beneath.items():
        found = own.get(kernel, {})
        merged[kernel] = found if "any" in found else {**entries, **found}
    return merged


def architecture_table(architecture: str) -> str:
    """The name of the table for GPUs of an architecture that have none of their own."""
    return architecture if (FOLDER / f"{architecture}.json").is_file() else DEFAULT


def read_table(path: Path) -> Table:
    """The entries that a file has, and no more.

    Raises:
        FileNotFoundError: there is no such file.
        TableError: as `load_table`.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError too
        raise TableError(f"{path} is not JSON ({error}): mend or delete it") from None
    fault = _fault(table)
    if fault:
        raise TableError(f"{path}: {fault}: mend or delete it, then `python -m benchmarks tune` makes a new one")
    return table  # type: ignore[no-any-return]


def _fault(table: object) -> str | None:
    """The first fault of a table, None if it has none."""
    default = load_table(DEFAULT)
    if not isinstance(table, dict):
        return f"a table of launch parameters is an object of kernels, this is a {type(table).__name__}"
    for kernel, entries in table.items():
        if kernel not in default:
            return f"there is no kernel {kernel!r}, expected some of {', '.join(default)}"
        if not isinstance(entries, dict) or not entries:
            return f"{kernel} has no entries, expected some of {', '.join(KINDS)}"
        needed = {name for parameters in default[kernel].values() for name in parameters} - set(OPTIONAL)
        for kind, parameters in entries.items():
            if kind not in KINDS:
                return f"{kernel} has an entry {kind!r}, expected some of {', '.join(KINDS)}"
            names = set(parameters) if isinstance(parameters, dict) else set()
            if missing := sorted(needed - names):
                return f"{kernel}, {kind}, lacks {', '.join(missing)}"
            if unknown := sorted(names - needed - set(OPTIONAL)):
                return f"{kernel}, {kind}, has {', '.join(unknown)}, which it does not take"
            for name, value in parameters.items():
                if name in FLAGS:
                    if type(value) is not int or value not in (0, 1):
                        return f"{kernel}, {kind}: {name} is {value!r}, expected 0 or 1"
                elif type(value) is not int or value < 1:
                    return f"{kernel}, {kind}: {name} is {value!r}, expected a positive integer"
            if parameters.get("BLOCK_P", 0) % parameters.get("TILE_W", 1):
                return f"{kernel}, {kind}: BLOCK_P {parameters['BLOCK_P']} is no multiple of TILE_W"
    return None


def launch_parameters(kernel: str, dtype: torch.dtype, device: torch.device) -> dict[str, int]:
    """Parameters of `kernel` for maps of `dtype`; warns once if the device has no table of its own."""
    kind = kind_of(dtype)
    for table in reversed(_overrides):
        found = _entry(table, kernel, kind)
        if found:
            return dict(found)
    found = _entry(_table_of(device), kernel, kind)
    if not found:
        raise KeyError(f"no launch parameters for {kernel}")
    return dict(found)


def kind_of(dtype: torch.dtype) -> str:
    """Name of the entry that maps of a dtype take, if there is no "any"."""
    return "float32" if dtype == torch.float32 else "half"


def _entry(table: Table, kernel: str, kind: str) -> Parameters | None:
    entries = table.get(kernel, {})
    return entries.get(kind) or entries.get("any")


@contextmanager
def overriding(table: Table, weakest: bool = False) -> Iterator[None]:
    """Use `table` where it has an entry for a kernel, for tuning and tests; `weakest`: other overrides come first."""
    _overrides.insert(0 if weakest else len(_overrides), table)
    try:
        yield
    finally:
        del _overrides[next(index for index, each in enumerate(_overrides) if each is table)]


@lru_cache(maxsize=16)
def _table_of(device: torch.device) -> Table:
    if device.type != "cuda":  # the interpreter
        return load_table(DEFAULT)
    name, base = table_name(device), architecture_table(architecture_of(device))
    if (FOLDER / f"{name}.json").is_file():
        return load_table(name, base=base)
    warnings.warn(
        f"no tuned launch parameters for {torch.cuda.get_device_name(device)}; using the defaults. "
        "`python -m benchmarks tune` makes a table",
        stacklevel=2,
    )
    return load_table(base)
