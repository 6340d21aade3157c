"""The command `cpu`: cases, passes and threads one after the other, each with all that can compute it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import typer
from rich.console import Console

from .. import rows as results
from ..machine import machine
from ..options import CASE_ALIASES, CPU_CASES, CPU_DEFAULTS, EMBEDDED, LOADS, PASS_NAMES, choose, cores, size_of
from ..report import not_timed
from ..runner import PASSES, Skipped
from .detectors import DETECTORS
from .job import EXPORT, ONNXRUNTIME, TRUTH, Job, Sizes
from .measure import Measured, Note, Plan, measure, write
from .processes import Failed
from .table import cpu_table

PROVIDER_KEYS = ("ours", ONNXRUNTIME, "official-float32", "dense")
ROUNDS = 5
QUICK_PX, QUICK_ROUNDS, QUICK_CHANNELS, QUICK_BLOCKS = "64x64", 1, 32, 2
EXPORT_SECONDS = 300
"""An export that takes longer is left out."""
DETECTOR_CASES = (EMBEDDED, "detector")


def run(
    cases: Sequence[str] | None,
    loads: str,
    threads: str,
    size: str | None,
    passes: Sequence[str] | None,
    rounds: int | None,
    with_onnx: bool,
    quick: bool,
    timeout_s: float,
    out: Path | None,
    save: bool,
) -> int:
    """Measure, print the table, append the rows; exit code 1 if our own operators compute something else.

    Raises:
        typer.BadParameter: an option names what there is not.
        ResultsError: the file to append to has other columns; found out before anything is measured.
    """
    names = [choose(CASE_ALIASES.get(name, name), CPU_CASES, "CASE") for name in cases or CPU_CASES]
    wanted = {PASS_NAMES[choose(name, PASS_NAMES, "--pass")] for name in passes or []}
    height, width = size_of(size or (QUICK_PX if quick else str(CPU_DEFAULTS["size"])))
    sizes = Sizes(height, width)
    if quick:
        sizes = replace(sizes, channels=QUICK_CHANNELS, blocks=QUICK_BLOCKS)
    counts = thread_counts(threads)
    plan = Plan(load_names(loads), rounds or (QUICK_ROUNDS if quick else ROUNDS), timeout_s)
    where = machine(torch.device("cpu"))
    folder = out or results.default_folder()
    if save:
        results.check(where.device, folder)

    rows: list[results.Row] = []
    skipped: list[Skipped] = []
    console = Console(stderr=True)
    with console.status("starting", spinner="dots") as status:
        for name in names:
            own = [pass_ for pass_ in PASSES if pass_ in (wanted or default_passes(name))]
            for found in measure_case(name, own, sizes, counts, with_onnx, plan, where, status.update):
                measured = [row for _, row in found.rows]
                rows += measured
                skipped += found.skipped
                if save and measured:
                    results.append(measured, folder)
    print(cpu_table(rows))
    if skipped:
        print("\n" + not_timed(list(dict.fromkeys(skipped))))
    print(f"\n{where.device}, {cores()} cores, torch {where.torch}.")
    if save and rows:
        print(f"Rows appended to {results.path_for(where.device, folder)}")
    wrong = [entry for entry in skipped if entry.wrong and entry.provider == Job("", "", "ours", 1, sizes).label]
    for entry in wrong:
        print(f"error: {entry.op}, {entry.pass_}: {entry.provider} is {entry.reason}", file=sys.stderr)
    return 1 if wrong else 0


def measure_case(
    case: str,
    passes: Sequence[str],
    sizes: Sizes,
    counts: Sequence[int],
    with_onnx: bool,
    plan: Plan,
    where: results.Machine,
    note: Note,
) -> Iterator[Measured]:
    """Yield what came of each pass and number of threads."""
    for pass_ in passes:
        with tempfile.TemporaryDirectory(prefix="dyzoo_bench_") as folder:
            jobs = [Job(case, pass_, key, counts[0], sizes, folder) for key in provider_keys(case, pass_, with_onnx)]
            jobs, absent = _ready_to_start(jobs, plan, note)
            yield absent
            for threads in counts:
                yield measure([replace(job, threads=threads) for job in jobs], plan, where, note)


def provider_keys(case: str, pass_: str, with_onnx: bool) -> list[str]:
    """Who computes a case: graphs of ONNX are for inference, other packages' detectors stand beside one like them."""
    left_out = set() if with_onnx and pass_ == "forward" else {ONNXRUNTIME}
    keys = [key for key in PROVIDER_KEYS if key not in left_out]
    if case in DETECTOR_CASES and pass_ == "forward":
        keys += ["ours-optimized", *(DETECTORS if case == "detector" else ())]
    return keys


def default_passes(case: str) -> tuple[str, ...]:
    """The passes of a case where none are named; a training step of a whole detector takes minutes."""
    return PASSES[:1] if case in DETECTOR_CASES else PASSES


def load_names(text: str) -> list[str]:
    """Loads of "none,full"."""
    return [choose(name.strip(), LOADS, "--load") for name in dict.fromkeys(text.split(","))]


def thread_counts(text: str) -> list[int]:
    """Numbers of "1,all", each once."""
    counts = [cores() if part.strip() == "all" else part.strip() for part in text.split(",")]
    if not all(str(count).isdecimal() and int(count) > 0 for count in counts):
        raise typer.BadParameter(f"{text!r} is no list of numbers or 'all', as in 1,all", param_hint="--threads")
    return list(dict.fromkeys(map(int, counts)))


def _ready_to_start(jobs: Sequence[Job], plan: Plan, note: Note) -> tuple[list[Job], Measured]:
    """Write the files that jobs share, while nothing is timed, and give those that have theirs."""
    absent, kept = Measured(), list(jobs)
    first = replace(jobs[0], threads=cores())
    if any(job.provider == ONNXRUNTIME for job in jobs):
        note(f"{first.case}: exporting to ONNX")
        try:
            write(replace(first, provider=EXPORT), min(EXPORT_SECONDS, plan.timeout_s))
        except Failed as error:
            kept = [job for job in kept if job.provider != ONNXRUNTIME]
            absent.skip(replace(first, provider=ONNXRUNTIME), error)
    note(f"{first.case}, {first.pass_}: the truth")
    try:
        write(replace(first, provider=TRUTH), plan.timeout_s)
    except Failed as error:
        for job in kept:
            absent.skip(job, Failed(f"there is nothing to compare with: {error}"))
        return [], absent
    return kept, absent
