"""The summary of a report as Markdown: what is known, what failed, what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from .. import rows as results
from ..machine import device_name
from ..predicted import KEPT, known
from ..report import markdown
from .plan import PREDICTED, PYTEST, TABLES, Step
from .report import LOGS, States
from .running import last_lines

FACTS = "machine.md"


def text(plan: Sequence[Step], states: States, out: Path, device: torch.device, size: str) -> str:
    """The whole summary."""
    parts = [f"# The kernels on {device_name(device)}"]
    if device.type != "cuda":
        parts.append("**This was a CPU: no number here is of a GPU, and steps that need one are left out.**")
    if (out / FACTS).is_file():
        parts.append((out / FACTS).read_text(encoding="utf-8").strip())
    parts += ["## Steps", _steps(plan, states)]
    for step in plan:
        state = states.get(step.name)
        if state and state.status in ("failed", "timed out", "cut off"):
            parts += [f"### {step.name}: {state.status}, {state.reason}", _tail(out / LOGS / f"{step.name}.log")]
        elif state and state.status == "done" and (said := _said(step, out / LOGS / f"{step.name}.log")):
            parts += [f"### {step.name}", said]
    parts += ["## Times", _times(out)]
    if states.get("tune") and (log := out / LOGS / "tune.log").is_file():
        parts += [f"## Tuning, tables in {TABLES}/", *_table_lines(log)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _steps(plan: Sequence[Step], states: States) -> str:
    lines = ["| step | what it finds out | state | seconds | of at most |", "|---|---|---|---:|---:|"]
    for step in plan:
        state = states.get(step.name)
        if state is None:
            lines.append(f"| {step.name} | {step.title} | not begun | | |")
            continue
        said = f"{state.status}: {state.reason}" if state.reason else state.status
        spent = (f"{each:.0f}" if each else "" for each in (state.seconds, state.limit_seconds))
        lines.append(f"| {step.name} | {step.title} | {said} | {' | '.join(spent)} |")
    return "\n".join(lines)


def _tail(log: Path) -> str:
    lines = last_lines(log)
    return "\n".join(["```text", *lines, "```"]) if lines else "It printed nothing."


def _said(step: Step, log: Path) -> str:
    """Lines of a finished step's log on what it could not time, as `report.markdown` has them; tests' last line."""
    lines = last_lines(log, 100)
    if PYTEST in step.command:
        return lines[-1] if lines else ""
    left_out = [line for line in lines if line.startswith("- **")]
    return "\n".join(["Not timed:", "", *left_out]) if left_out else ""


def _times(out: Path) -> str:
    """The rows of this folder beside its own predictions, or those that came with the benchmarks."""
    path = out / PREDICTED
    try:
        predictions = known(path if path.is_file() else KEPT)
    except results.ResultsError:  # written by something else
        predictions = known(KEPT)
    measured: list[results.Row] = []
    unread = []
    for file in sorted(out.glob("*.csv")):
        try:
            measured += results.read(file) if file != path else []
        except results.ResultsError as error:
            unread.append(f"Left out: {error}.")
    shown = markdown(results.latest(measured), predictions=predictions) if measured else "Nothing was measured yet."
    return "\n\n".join([shown, *unread])


def _table_lines(log: Path) -> list[str]:
    found = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.startswith("|")]
    return ["\n".join(found)] if found else ["No kernel was finished."]
