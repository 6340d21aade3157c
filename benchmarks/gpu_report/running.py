"""Running one step: a process of its own, with a limit of time and a log, that never outlives the report."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Status = Literal["done", "failed", "timed out", "cut off", "left out"]

GRACE_SECONDS = 5.0
"""Between the request to stop and the kill."""
LAST_LINES = 15
_TAIL_BYTES = 20_000
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Outcome:
    """How a step ended.

    Attributes:
        reason: one line of why it is not done; empty if it is.
        seconds, limit_seconds: it took, and might have taken.
    """

    status: Status
    reason: str = ""
    seconds: float = 0.0
    limit_seconds: float = 0.0


def run(command: Sequence[str], limit_seconds: float, log: Path, folder: Path | None = None) -> Outcome:
    """Run a command to its end or its limit, all that it prints going to `log`; an error is an outcome.

    A step that is stopped gets `GRACE_SECONDS` to end by itself. With the report, should that be killed, it ends too.
    """
    began = time.monotonic()
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )
        except OSError as error:
            return Outcome("failed", f"{command[0]} cannot be started: {error.strerror}", 0.0, limit_seconds)
        try:
            code = process.wait(limit_seconds)
        except subprocess.TimeoutExpired:
            _stop(process)
            return Outcome("timed out", f"not done in {limit_seconds:.0f} s", time.monotonic() - began, limit_seconds)
        except BaseException:  # the report is being stopped
            _stop(process)
            raise
        finally:
            _kill(process)  # what it has started and not waited for
    seconds = time.monotonic() - began
    return Outcome("failed" if code else "done", reason(code), seconds, limit_seconds)


def last_lines(log: Path, count: int = LAST_LINES) -> list[str]:
    """The end of a log, without control characters; nothing where there is none."""
    if not log.is_file():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        text = file.read().decode("utf-8", errors="replace")
    lines = (line.rpartition("\r")[2] for line in text.splitlines() if line.strip())
    return ["".join(letter for letter in line if letter.isprintable()) for line in lines][-count:]


def reason(code: int) -> str:
    """Why a process ended that did, in words; empty for an exit code of 0."""
    if code >= 0:
        return f"exit code {code}" if code else ""
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"killed by {name}" + (", as a system does whose memory runs out" if name == "SIGKILL" else "")


def _stop(process: subprocess.Popen[bytes]) -> None:
    _kill(process, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    _kill(process)
    process.wait()


def _kill(process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGKILL) -> None:
    """Signal the step and all that it has started: they are a session of their own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, how)


def die_with_parent(how: signal.Signals = signal.SIGKILL) -> Callable[[], None] | None:
    """A call for a new process to make, so that Linux signals it when its parent dies, however that dies."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, how, 0, 0, 0)
