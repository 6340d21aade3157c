"""Compiling many kernels in several processes, up to a deadline. What they leave in Triton's cache, launches find."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType

from dyhead_kernels.static import Job, Resources, compile_or_reason

from ..options import cores

ATTEMPTS = 2
"""A compiler that crashes takes the jobs beside it along: each of them is tried again, with none beside it."""


def default_workers() -> int:
    """A core is left for the process that times."""
    return max(1, cores() - 1)


class Compiler:
    """A pool of processes, started when first needed. Each has its own Triton and never touches a GPU."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self._known: dict[Job, Resources | str] = {}

    def __enter__(self) -> Compiler:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop()

    def __call__(self, jobs: Iterable[Job], deadline: float) -> dict[Job, Resources | str]:
        """Results of the jobs, in the order given until `time.monotonic()` is `deadline`; later ones are left out."""
        wanted = list(dict.fromkeys(jobs))
        waiting = [job for job in reversed(wanted) if job not in self._known]
        attempts = dict.fromkeys(waiting, 0)
        running: dict[Future[Resources | str], Job] = {}
        while (waiting or running) and time.monotonic() < deadline:
            self._pool = self._pool or ProcessPoolExecutor(
                self._workers, mp_context=multiprocessing.get_context("spawn")
            )
            try:
                while waiting and len(running) < self._workers:
                    if running and any(attempts[job] for job in (waiting[-1], *running.values())):
                        break
                    running[self._pool.submit(compile_or_reason, waiting[-1])] = waiting[-1]
                    waiting.pop()
                done, _ = wait(running, max(0.0, deadline - time.monotonic()), FIRST_COMPLETED)
                for future in done:
                    self._known[running[future]] = future.result()
                    del running[future]
            except BrokenProcessPool:
                for job in running.values():
                    attempts[job] += 1
                    if attempts[job] < ATTEMPTS:
                        waiting.append(job)
                    else:
                        self._known[job] = "the compiler crashes"
                running.clear()
                self._stop()
        if running:  # some kernels take a compiler minutes
            self._stop()
        return {job: self._known[job] for job in wanted if job in self._known}

    def _stop(self) -> None:
        if self._pool is not None:
            own = list((self._pool._processes or {}).values())
            self._pool.shutdown(wait=False, cancel_futures=True)
            for process in own:
                process.terminate()
            self._pool = None
