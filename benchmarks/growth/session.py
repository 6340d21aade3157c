"""The command `growth`: axes and passes one after the other, the points of each taking turns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from .. import rows as results
from ..apart.job import Job
from ..apart.measure import Plan, measure
from ..machine import machine
from ..options import GROWTH_AXES, PASS_NAMES, choose, cores
from ..report import not_timed
from ..runner import PASSES, Skipped
from .plot import save_growth_plot
from .points import FULL, SMALL, as_growth, case_of
from .table import curves, growth_table


def run(
    axes: Sequence[str] | None,
    passes: Sequence[str] | None,
    rounds: int,
    small: bool,
    timeout_s: float,
    out: Path | None,
    save: bool,
) -> None:
    """Measure, print the table, append the rows and draw each axis.

    Raises:
        typer.BadParameter: there is no such axis or pass.
        ResultsError: the file to append to has other columns; found out before anything is measured.
    """
    names = [choose(name, GROWTH_AXES, "AXIS") for name in axes or GROWTH_AXES]
    wanted = [PASS_NAMES[choose(name, PASS_NAMES, "--pass")] for name in passes or PASSES]
    ladder = SMALL if small else FULL
    plan = Plan(("none",), rounds, timeout_s)
    where = machine(torch.device("cpu"))
    folder = out or results.default_folder()
    if save:
        results.check(where.device, folder)

    rows: list[results.Row] = []
    skipped: list[Skipped] = []
    with Console(stderr=True).status("starting", spinner="dots") as status:
        for axis in dict.fromkeys(names):
            for pass_ in dict.fromkeys(wanted):
                jobs = [Job(case_of(axis), pass_, "ours", cores(), sizes) for sizes in ladder.sizes(axis)]
                found = measure(jobs, plan, where, status.update)
                measured = [as_growth(job, row, axis) for job, row in found.rows]
                rows += measured
                skipped += found.skipped
                if save and measured:
                    results.append(measured, folder)
    print(growth_table(rows))
    if skipped:
        print("\n" + not_timed(skipped))
    print(f"\n{where.device}, {cores()} threads, torch {where.torch}.")
    if save and rows:
        file = results.path_for(where.device, folder)
        print(f"Rows appended to {file}, drawn in {', '.join(map(str, _draw(rows, file)))}")


def _draw(rows: Sequence[results.Row], file: Path) -> list[Path]:
    """A picture of each axis beside the file of the rows."""
    found = curves(rows)
    paths = []
    for axis in dict.fromkeys(curve[0] for curve in found):
        path = file.with_name(f"{file.stem}-growth-{axis}.png")
        save_growth_plot(axis, {curve: members for curve, members in found.items() if curve[0] == axis}, path)
        paths.append(path)
    return paths
