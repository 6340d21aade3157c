"""The processes of jobs, from outside: started, waited for as long as may be, stopped whatever happens."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from multiprocessing import Pipe
from pathlib import Path
from types import TracebackType
from typing import Any

from .job import Job

# The package's folder may be on no path of a new interpreter: a checkout's `dyzoo bench` loads it by its place.
_START = """
import sys
from runpy import run_module
sys.path.insert(0, sys.argv.pop(1))
run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
STOP_SECONDS = 5
SETTLE_SECONDS = 0.1
"""Before each turn: the threads of the process that had the last one spin a while before they sleep."""


class Failed(Exception):
    """A process that gives no measurement; the message is the reason.

    Attributes:
        wrong: it computes something else than the others.
    """

    def __init__(self, reason: str, wrong: bool = False) -> None:
        super().__init__(reason)
        self.wrong = wrong


class Worker:
    """The process of one job, which begins when this is made.

    Args:
        timeout_s: seconds that each answer may take.
    """

    def __init__(self, job: Job, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `stop`)
        self._connection, theirs = Pipe()
        try:
            self._process = subprocess.Popen(
                [*command(job), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
            )
        except BaseException:
            self._connection.close()
            self._said.close()
            raise
        finally:
            theirs.close()
        with suppress(OSError):  # it is gone already: the answer says so
            self._connection.send(asdict(job))

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def wait_until_ready(self) -> dict[str, Any]:
        """Facts that a job which measures states before its first turn; empty for one that writes.

        Raises:
            Failed: it cannot be measured.
        """
        return next(iter(self._answer()), {})

    def turn(self, repetitions: int | None) -> list[float]:
        """Milliseconds of each run of a turn; None lets the process find out how many.

        Raises:
            Failed: it crashed, hangs or gave up.
        """
        time.sleep(SETTLE_SECONDS)
        with suppress(OSError):
            self._connection.send(repetitions)
        return self._answer()[0]

    def stop(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.kill()
        self._process.wait(STOP_SECONDS)
        self._said.close()

    def _answer(self) -> tuple[Any, ...]:
        try:
            if not self._connection.poll(self._timeout_s):
                self._process.kill()
                raise Failed(f"no answer in {self._timeout_s:.0f} s")
            kind, *values = self._connection.recv()
        except (EOFError, OSError):
            raise Failed(f"the process crashed: {self._last_words()}") from None
        if kind == "failed":
            raise Failed(*values)
        return tuple(values)

    def _last_words(self) -> str:
        code = self._process.wait(STOP_SECONDS)
        self._said.seek(0)
        lines = [line for line in self._said.read().decode(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else f"signal {-code}" if code < 0 else f"exit code {code}"


def command(job: Job) -> list[str]:
    """The command line that serves a job, to which the descriptor of its pipe is added."""
    folder = Path(__file__).parent
    names = [folder.name, "worker"]
    while (folder.parent / "__init__.py").is_file():
        folder = folder.parent
        names.insert(0, folder.name)
    return [sys.executable, "-c", _START, str(folder.parent), ".".join(names)]
