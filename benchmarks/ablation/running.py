"""Trainings side by side, each a process with its share of the cores; stopped, they save and can go on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..gpu_report.running import die_with_parent

POLL_SECONDS = 0.2
SAVING_SECONDS = 120.0
"""Between the request to stop and the kill: a training finishes its step and saves."""


@dataclass(frozen=True)
class Task:
    """A command and the file that takes all it prints, after what is there."""

    name: str
    command: tuple[str, ...]
    log: Path


def run_all(tasks: Sequence[Task], jobs: int, threads: int, ended: Callable[[Task, int, float], None]) -> None:
    """Run every task to its end, `jobs` of them at a time.

    They end with this process, and are asked to stop when it is: by Ctrl-C, by an error of `ended`.

    Args:
        threads: of each process.
        ended: called with a task, its exit code (a signal's number below zero) and its seconds.
    """
    waiting = deque(tasks)
    running: dict[Task, tuple[subprocess.Popen[bytes], float]] = {}
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                task = waiting.popleft()
                running[task] = (_start(task, environment), time.monotonic())
            time.sleep(POLL_SECONDS)
            for task, (process, began) in list(running.items()):
                if (code := process.poll()) is not None:
                    del running[task]
                    ended(task, code, time.monotonic() - began)
    finally:
        _stop([process for process, _ in running.values()])


def _start(task: Task, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with task.log.open("ab") as output:
        return subprocess.Popen(
            task.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C of the terminal comes through this process alone, once
            preexec_fn=die_with_parent(signal.SIGTERM),
        )


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Let all save at the same time, then end those that do not."""
    for process in processes:
        with suppress(ProcessLookupError):
            process.terminate()
    until = time.monotonic() + SAVING_SECONDS
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(until - time.monotonic(), 0))
        process.kill()
        process.wait()
