"""The commands' work: plan, run, summarize."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from dyzoo.files import write_text

from ..machine import device_name as name_of
from ..options import device_of, size_of
from . import summary, work
from .plan import Step, plan
from .report import LOGS, ReportError, States, make, read_states

SUMMARY = "summary.md"
NO_GPU = (
    "nothing can be measured: there is no GPU here that PyTorch can use. --dry-run prints the plan, --device cpu runs "
    "the steps that a CPU can take"
)


def run(minutes: float, out: Path, device_name: str | None, size: str, dry_run: bool) -> int:
    """Make a report, or print its plan; exit code 1 if a step failed.

    Raises:
        ReportError: there is no GPU, or the folder's states cannot be read.
    """
    size_of(size)
    out, device = out.resolve(), device_of(device_name)
    absent = device.type == "cpu" and not device_name
    if dry_run:
        looked_at = plan(out, torch.device("cuda"), "", size) if absent else plan(out, device, name_of(device), size)
        print(planned(looked_at, minutes, read_states(out)))
        return 0
    if absent:
        raise ReportError(NO_GPU)
    steps = plan(out, device, name_of(device), size)
    mend_rows(out)

    def summarize(states: States) -> None:
        write_text(out / SUMMARY, summary.text(steps, states, out, device, size))

    states = make(steps, out, minutes, summarize, lambda line: print(line, file=sys.stderr, flush=True))
    print(f"{out / SUMMARY} says what is known; logs are in {out / LOGS}")
    return int(any(state.status in ("failed", "timed out") for state in states.values()))


def planned(steps: list[Step], minutes: float, states: States) -> str:
    """A Markdown table of the steps with their shares of the time."""
    own = [step for step in steps if step.command and (step.name not in states or states[step.name].status != "done")]
    whole = sum(step.minutes for step in own)
    lines = ["| step | what it finds out | minutes | |", "|---|---|---:|---|"]
    for step in steps:
        share = f"{minutes * step.minutes / whole:.1f}" if step in own else ""
        note = f"left out: {step.reason}" if step.reason else "" if step in own else "done"
        lines.append(f"| {step.name} | {step.title} | {share} | {note} |")
    return "\n".join(lines)


def mend_rows(out: Path) -> None:
    """Cut off the half lines that a killed step may have left at the end of files of rows."""
    for path in out.glob("*.csv") if out.is_dir() else ():
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            path.write_bytes(whole)


def step(name: str, out: Path, device_name: str | None, size: str) -> int:
    """One of the steps that are run by `gpu-report` alone."""
    device = device_of(device_name)
    if name == "machine":
        work.describe(device, out)
        return 0
    missing = work.time_launches(device, size_of(size), out)
    if missing:
        print(f"not timed: {', '.join(missing)}; a kernel needs an operation in benchmarks/tune/problem.py")
    return int(bool(missing))
