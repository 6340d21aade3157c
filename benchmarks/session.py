"""The commands' work: choose cases and providers, measure them one by one, keep and show the rows."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
import typer
from dyhead_kernels.static.cards import CARDS
from rich.console import Console

from . import predicted
from . import rows as results
from . import runtimes as by_runtime
from . import steps as block_steps
from .apart.table import cpu_table
from .cases import CASES, Setup
from .growth.points import axis_of
from .growth.table import growth_table
from .machine import OP as MACHINE
from .machine import machine, peaks
from .options import CASE_ALIASES, CPU_CASES, CPU_DEFAULTS, GPU_DEFAULTS, LOADS, PASS_NAMES, choose, device_of, size_of
from .plot import save_plot
from .precision import ALIASES, PRECISIONS, Precision, tf32
from .providers import PROVIDERS, Provider
from .report import markdown
from .runner import PASSES, Skipped, measure
from .timing import Clock

DTYPES = ("bfloat16", "float32")  # that are predicted if none are named


def run(
    cases: Sequence[str] | None,
    sizes: Sequence[str] | None,
    batches: Sequence[int] | None,
    dtypes: Sequence[str] | None,
    passes: Sequence[str] | None,
    providers: Sequence[str] | None,
    device_name: str | None,
    rounds: int | None,
    compile_: bool | None,
    out: Path | None,
    save: bool,
) -> int:
    """Measure every combination; exit code 1 if one of our own providers computes something else than the others.

    Raises:
        typer.BadParameter: an option names what there is not.
        ResultsError: the file to append to has other columns; found out before anything is measured.
    """
    device = device_of(device_name)
    on_gpu = device.type == "cuda"
    defaults: dict[str, Any] = GPU_DEFAULTS if on_gpu else CPU_DEFAULTS
    names = [choose(CASE_ALIASES.get(name, name), CASES, "CASE") for name in cases or defaults["cases"]]
    shapes = [size_of(text) for text in sizes or [defaults["size"]]]
    precisions = [_precision(name, device) for name in dtypes or [defaults["dtype"]]]
    chosen_passes = [PASS_NAMES[choose(name, PASS_NAMES, "--pass")] for name in passes or PASSES]
    chosen, left_out = _providers(providers, on_gpu)
    folder = out or results.default_folder()
    where, clock = machine(device), Clock(device)
    if save:
        results.check(where.device, folder)

    rows: list[results.Row] = []
    skipped: list[Skipped] = []

    def keep(measured: list[results.Row]) -> None:
        rows.extend(measured)
        if save and measured:
            results.append(measured, folder)

    console = Console(stderr=True)
    with console.status("the machine's peaks", spinner="dots") as status:
        for precision in precisions:
            keep(peaks(precision, clock, where))
        for name, (height, width), batch, precision in product(names, shapes, batches or [1], precisions):
            case = CASES[name](Setup(height, width, batch, precision, device))
            for pass_ in chosen_passes:
                measured, not_timed = measure(
                    case,
                    chosen,
                    pass_,
                    clock,
                    where,
                    rounds or defaults["rounds"],
                    _compiles(compile_, on_gpu),
                    status.update,
                )
                keep(measured)
                skipped += not_timed
            del case
    print(markdown(rows, skipped))
    if left_out:
        print(f"\nNot asked for, being slow on a CPU: {', '.join(f'--provider {key}' for key in left_out)}.")
    print(f"\n{where.device}, {where.threads} threads, torch {where.torch}, triton {where.triton or 'none'}.")
    if not on_gpu:
        print("Nothing was timed on a GPU.")
    if save:
        file = results.path_for(where.device, folder)
        print(f"Rows appended to {file}, drawn in {plot(file)}")
    return _report_wrong(skipped, chosen)


def steps(size: str | None, batch: int, dtype: str | None, device_name: str | None, rounds: int) -> str:
    """Time the steps of one block and give a Markdown table.

    Raises:
        typer.BadParameter: an option names what there is not.
    """
    device = device_of(device_name)
    defaults: dict[str, Any] = GPU_DEFAULTS if device.type == "cuda" else CPU_DEFAULTS
    height, width = size_of(size or defaults["size"])
    precision = _precision(dtype or defaults["dtype"], device)
    with tf32(precision.tf32_matmul, precision.tf32_cudnn):
        return block_steps.table(block_steps.measure(Setup(height, width, batch, precision, device), rounds))


def runtimes(model: str | None, files: Sequence[Path], size: str, rounds: int, compile_: bool) -> str:
    """Time a detector in several runtimes and give a Markdown table.

    Raises:
        typer.BadParameter: the size is none.
        DyzooError: the model cannot be loaded.
    """
    from dyzoo.zoo.names import DEFAULT_MODEL

    shape, where = size_of(size), machine(device_of("cpu"))
    with Console(stderr=True).status("loading", spinner="dots") as status:
        measured, skipped = by_runtime.measure(model or DEFAULT_MODEL, files, shape, rounds, compile_, status.update)
    lines = [by_runtime.table(measured), *(f"\nNot timed: {line}" for line in skipped)]
    lines.append(f"\n{where.device}, {where.threads} thread{'s' * (where.threads != 1)}, torch {where.torch}.")
    return "\n".join(lines)


def predict(cards: Sequence[str] | None, dtypes: Sequence[str] | None, out: Path | None, workers: int | None) -> str:
    """Write predictions and say where.

    Raises:
        typer.BadParameter: an option names what there is not.
        PredictError: the kernels cannot be compiled here.
    """
    names = [choose(name, CARDS, "--card") for name in cards or CARDS]
    precisions = [choose(ALIASES.get(name, name), PRECISIONS, "--dtype") for name in dtypes or DTYPES]
    if "tf32" in precisions:
        raise typer.BadParameter("tf32 has no time model: choose float32", param_hint="--dtype")
    path = out or (predicted.KEPT if results.CHECKOUT_RESULTS.is_dir() else Path.cwd() / predicted.KEPT.name)
    rows = predicted.predict(names, precisions, path, workers)
    totals = [
        f"{row.device}, {row.dtype}, {row.op}, {row.pass_}: {row.p50_ms:.3f} ms"
        for row in rows
        if row.op != predicted.LAUNCH
    ]
    return "\n".join([*totals, f"{len(rows)} rows written to {path}; nothing was measured."])


def table(path: Path) -> str:
    """The newest rows of a file as Markdown tables."""
    found = results.latest(results.read(path))
    growths = [row for row in found if axis_of(row)]
    loaded = [row for row in found if row.load and not axis_of(row)]
    parts = [markdown([row for row in found if not row.load])]
    parts += [cpu_table(loaded)] if loaded else []
    parts += [growth_table(growths)] if growths else []
    return "\n\n".join(filter(None, parts))


def plot(
    path: Path,
    out: Path | None = None,
    cases: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
    batches: Sequence[int] | None = None,
    loads: Sequence[str] | None = None,
) -> Path:
    """Draw the newest rows of a file, those of some cases, dtypes and batches only, and give the picture's path.

    Cases that are no longer measured appear only if named, or if there are no others. So do rows that the command `cpu`
    has measured under a load.
    """
    found = results.latest(results.read(path))
    shown = {choose(name, LOADS, "--load") for name in loads or []} or {
        "" if any(not row.load and row.op != MACHINE for row in found) else LOADS[0]
    }
    wanted = [CASE_ALIASES.get(name, name) for name in cases or []] or [
        name for name in dict.fromkeys((*CASES, *CPU_CASES)) if any(row.op == name for row in found)
    ]
    rows = [
        row
        for row in found
        if (not wanted or row.op in (*wanted, MACHINE))
        and (row.op == MACHINE or row.load in shown)
        and (not dtypes or row.dtype in [ALIASES.get(name, name) for name in dtypes])
        and (not batches or row.op == MACHINE or row.shape.split("x")[0] in map(str, batches))
    ]
    target = out or path.with_suffix(".png")
    try:
        save_plot(rows, target)
    except ValueError as error:
        raise results.ResultsError(f"{path}: {error}") from None
    return target


def _precision(name: str, device: torch.device) -> Precision:
    precision = PRECISIONS[choose(ALIASES.get(name, name), PRECISIONS, "--dtype")]
    if device.type != "cuda" and precision.name == "tf32":
        raise typer.BadParameter("tf32 is a rounding of GPUs: choose float32", param_hint="--dtype")
    return precision


def _compiles(wanted: bool | None, on_gpu: bool) -> bool:
    return on_gpu if wanted is None else wanted


def _providers(keys: Sequence[str] | None, on_gpu: bool) -> tuple[list[Provider], list[str]]:
    """The providers asked for, and the keys of those left out because a CPU takes minutes for them."""
    if keys:
        return [PROVIDERS[choose(key, PROVIDERS, "--provider")] for key in dict.fromkeys(keys)], []
    left_out = [] if on_gpu else [key for key, provider in PROVIDERS.items() if provider.slow_on_cpu]
    return [provider for key, provider in PROVIDERS.items() if key not in left_out], left_out


def _report_wrong(skipped: Sequence[Skipped], providers: Sequence[Provider]) -> int:
    own = tuple(provider.label for provider in providers if provider.key.startswith("ours"))
    wrong = [entry for entry in skipped if entry.wrong and entry.provider in own]
    for entry in wrong:
        print(f"error: {entry.op}, {entry.pass_}, {entry.dtype}: {entry.provider} is {entry.reason}", file=sys.stderr)
    return 1 if wrong else 0
