"""The report: steps one after the other, their states and the summary written after each."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from dyzoo.errors import DyzooError
from dyzoo.files import write_text

from .plan import SECONDS, Step
from .running import Outcome, run

STATE = "state.json"
LOGS = "logs"
BEGUN = Outcome("cut off", "the report was stopped in it")
"""The state of a step while it runs: what is read later, if nothing else is written."""
OWN_SHARE = 0.8
"""Share of its limit that a step is told to take, where it is told."""


class ReportError(DyzooError, RuntimeError):
    """A report that cannot be begun or gone on with."""


States = dict[str, Outcome]
Summarize = Callable[[States], None]


def make(plan: Sequence[Step], out: Path, minutes: float, summarize: Summarize, say: Callable[[str], None]) -> States:
    """Run what is missing of a plan and give the states of all steps.

    What was never begun comes before what failed, was cut off or ran out of time. Time that a step leaves goes to
    those after it.

    Args:
        summarize: given all states before the first step and after each one.
        say: told of every step that begins and ends.

    Raises:
        ReportError: the folder has states that cannot be read.
        SystemExit: the report was asked to stop; states and summary are written.
    """
    (out / LOGS).mkdir(parents=True, exist_ok=True)
    states = read_states(out)
    ends = time.monotonic() + 60 * minutes
    for step in plan:
        if not step.command:
            states[step.name] = Outcome("left out", step.reason)
    todo = [step for step in plan if step.command and states.get(step.name, BEGUN).status != "done"]
    todo.sort(key=lambda step: step.name in states and states[step.name].status != "left out")

    def keep(name: str, outcome: Outcome) -> None:
        states[name] = outcome
        write_text(out / STATE, json.dumps({each: asdict(state) for each, state in states.items()}, indent=1) + "\n")
        summarize(states)

    with _stopped_by_signals():
        for index, step in enumerate(todo):
            left = ends - time.monotonic()
            share = step.minutes / sum(each.minutes for each in todo[index:])
            limit = min(left, max(step.least_seconds, share * left))
            if left < step.least_seconds:
                if step.name not in states:
                    keep(step.name, Outcome("left out", "the time was up: call again with the same --out"))
                continue
            say(f"{step.name}: {step.title}, at most {limit:.0f} s")
            keep(step.name, BEGUN)
            command = [word.replace(SECONDS, f"{OWN_SHARE * limit:.0f}") for word in step.command]
            outcome = run(command, limit, out / LOGS / f"{step.name}.log", step.folder)
            keep(step.name, outcome)
            say(f"{step.name}: {outcome.status}{outcome.reason and ', '}{outcome.reason} after {outcome.seconds:.0f} s")
    summarize(states)
    return states


def read_states(out: Path) -> States:
    """States that an earlier call has left; none in a new folder.

    Raises:
        ReportError: they cannot be read.
    """
    path = out / STATE
    if not path.is_file():
        return {}
    try:
        found: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return {name: Outcome(**each) for name, each in found.items()}
    except (ValueError, TypeError, AttributeError):
        raise ReportError(f"{path} is not what an earlier report left: delete it, or choose another --out") from None


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise SystemExit, so that the step is stopped and nothing is half written."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    numbers = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
