"""The command's work: tune kernel by kernel, keep what is found, show it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import typer
from dyhead_kernels.launch import tuning
from rich.console import Console

from dyzoo.errors import first_line

from ..precision import ALIASES, PRECISIONS, Precision, tf32
from ..work import level_shapes
from . import TuneError
from .compiling import Compiler, default_workers
from .problem import Problem
from .search import NothingRunsError, Outcome, Search, shown
from .space import SPACES, Parameters, first_candidates
from .table import merge
from .timing import GpuTimer

LEAST_SECONDS = 5.0
"""Time of one kernel, also when time is up: enough to time the default and what differs least from it."""


def run(
    kernels: Sequence[str] | None,
    size: tuple[int, int],
    channels: int,
    dtypes: Sequence[str],
    seconds: float,
    workers: int | None,
    device: torch.device,
    out: Path | None,
) -> None:
    """Tune, write the table after every kernel, and print what was found.

    Raises:
        TuneError: the GPU fails, no candidate runs on it, or the table that is there is none.
        typer.BadParameter: an option names what there is not.
    """
    precisions, names = chosen_precisions(dtypes), chosen_kernels(kernels)
    folder = out or tuning.FOLDER
    path = folder / f"{tuning.table_name(device)}.json"
    properties = torch.cuda.get_device_properties(device)
    shared_bytes = int(getattr(properties, "shared_memory_per_block_optin", properties.shared_memory_per_block))
    shapes, console = level_shapes(*size), Console(stderr=True)
    ends = time.monotonic() + seconds
    outcomes: list[Outcome] = []

    def keep(outcome: Outcome) -> None:
        outcomes.append(outcome)
        merge(path, {outcome.kernel: {outcome.kind: outcome.best}})

    try:
        found = tuning.read_table(path) if path.is_file() else {}
        with (
            console.status("tensors") as status,
            warnings.catch_warnings(),
            Compiler(workers or default_workers()) as compiler,
        ):
            warnings.filterwarnings("ignore", message="no tuned launch parameters")
            for index, precision in enumerate(precisions):
                own = [name for name in names if index == 0 or not SPACES[name].every_dtype]
                with tf32(precision.tf32_matmul, precision.tf32_cudnn):
                    search = Search(
                        Problem(shapes, channels, precision.dtype, device),
                        Problem(shapes, channels, precision.dtype, torch.device("meta")),
                        tuning.architecture_of(device),
                        shared_bytes,
                        compiler,
                        GpuTimer(device),
                        warn=lambda text: console.print(f"warning: {text}", soft_wrap=True, markup=False),
                        note=status.update,
                    )
                    left = ends - time.monotonic()
                    tune_all(search, own, found, left / (len(precisions) - index), keep)
                del search
    except (NothingRunsError, tuning.TableError) as error:
        raise TuneError(str(error)) from None
    except torch.AcceleratorError as error:
        raise TuneError(
            f"the GPU gave up ({first_line(error)}); {path} has the {len(outcomes)} kernels finished before"
        ) from None
    print(report(outcomes))
    print(f"\nWritten to {path}")
    if folder.resolve() != tuning.FOLDER.resolve():
        print(f"It takes effect in {tuning.FOLDER}")


def tune_all(
    search: Search, names: Sequence[str], found: tuning.Table, seconds: float, keep: Callable[[Outcome], None]
) -> None:
    """Tune kernels one after the other; each gets a share of what is left of the time, by the size of its space.

    Args:
        found: the table that is there, whose entries are tried too.
        keep: given each outcome at once.
    """
    kind = tuning.kind_of(search.problem.values.dtype)
    base = tuning.load_table(tuning.architecture_table(search.target))
    starts = {name: _starts(name, kind, base, found) for name in names}
    sizes = [len(first_candidates(SPACES[name], starts[name][0])) for name in names]
    ends = time.monotonic() + seconds
    for index, name in enumerate(names):
        share = sizes[index] / sum(sizes[index:])
        keep(search.tune(name, starts[name], max(LEAST_SECONDS, share * (ends - time.monotonic()))))


def _starts(kernel: str, kind: str, base: tuning.Table, found: tuning.Table) -> list[Parameters]:
    """The parameters of a GPU without a table of its own, then those that have been found before."""
    starts = []
    for table in (base, found):
        entries = table.get(kernel, {})
        entry = entries.get(kind) or entries.get("any")
        if entry and dict(entry) not in starts:
            starts.append(dict(entry))
    return starts


def chosen_kernels(names: Sequence[str] | None) -> list[str]:
    """All, or those named, in the order of tuning."""
    for name in names or ():
        if name not in SPACES:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(SPACES)}", param_hint="KERNEL")
    return [name for name in SPACES if not names or name in names]


def chosen_precisions(names: Sequence[str]) -> list[Precision]:
    """The precisions of these names, one for each entry of a table."""
    by_kind: dict[str, Precision] = {}
    for name in names:
        precision = PRECISIONS.get(ALIASES.get(name, name))
        if precision is None:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(PRECISIONS)}", param_hint="--dtype")
        kind = tuning.kind_of(precision.dtype)
        if by_kind.setdefault(kind, precision) is not precision:
            raise typer.BadParameter(
                f"{by_kind[kind].name} and {precision.name} share the entries {kind!r}: choose one",
                param_hint="--dtype",
            )
    return list(by_kind.values())


def report(outcomes: Sequence[Outcome]) -> str:
    """A Markdown table."""
    lines = ["| kernel | entry | default, us | best, us | timed | parameters |", "|---|---|---:|---:|---:|---|"]
    for each in outcomes:
        default = "-" if each.default_ms is None else f"{1e3 * each.default_ms:.1f}"
        lines.append(
            f"| {each.kernel} | {each.kind} | {default} | {1e3 * each.best_ms:.1f} | {each.timed} of {each.possible} "
            f"| {shown(each.best)} |"
        )
    return "\n".join(lines)
