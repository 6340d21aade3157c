"""A process in place of a measurement's: it answers by a script, at once, without importing what a real one needs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

    from benchmarks.apart.job import Job

KINDS = ("good", "no beginning", "crash", "hang", "late crash", "late hang", "wrong")


def script(monkeypatch: pytest.MonkeyPatch, kind_of: Callable[[Job], str]) -> None:
    """Let jobs be measured by this file, each behaving as one of `KINDS`."""
    from benchmarks.apart import processes

    monkeypatch.setattr(processes, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(processes, "command", lambda job: [sys.executable, "-S", "-E", __file__, kind_of(job)])


def milliseconds(sizes: dict[str, Any]) -> float:
    """The time that a run is said to take."""
    linear = sizes["height_px"] * sizes["width_px"] * sizes["batch"] * sizes["blocks"] * (sizes["classes"] or 1)
    return 1e-3 * float(linear * sizes["channels"] ** 2)


def main(kind: str, connection: Connection) -> None:
    """Answer until the other end is closed."""
    job = connection.recv()
    if kind == "crash":
        print("something to read\nthe last words", file=sys.stderr, flush=True)
        os._exit(3)
    if kind == "hang":
        time.sleep(600)
    if kind == "wrong":
        connection.send(("failed", "wrong: output 0 is off", True))
    if kind == "no beginning":
        connection.send(("failed", "it is not installed", False))
    taken_ms = milliseconds(job["sizes"])
    connection.send(("ready", {"flop": 1e9 * taken_ms, "bytes": None, "peak_mib": taken_ms}))
    while True:
        repetitions = connection.recv()
        if kind == "late crash":
            os.kill(os.getpid(), 9)
        if kind == "late hang":
            time.sleep(600)
        connection.send(("taken", [taken_ms] * (repetitions or 3)))


if __name__ == "__main__":
    with suppress(EOFError):
        main(sys.argv[1], Connection(int(sys.argv[2])))
