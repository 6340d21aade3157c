"""Jobs measured side by side: all their processes are started, then take turns under each load."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from ..rows import Machine, Row
from ..runner import Skipped
from ..timing import percentiles, take_own_turns
from .job import Job
from .loads import load
from .processes import Failed, Worker

Note = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How jobs are measured.

    Attributes:
        loads: some of `options.LOADS`.
        rounds: times that the processes take turns under each load.
        timeout_s: seconds that building or one turn may take.
    """

    loads: Sequence[str]
    rounds: int
    timeout_s: float


@dataclass
class Measured:
    """The outcome of jobs: rows by job, and those that were not timed."""

    rows: list[tuple[Job, Row]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def skip(self, job: Job, error: Exception) -> None:
        """Note why a job was not timed."""
        self.skipped.append(Skipped(*job.columns, str(error), isinstance(error, Failed) and error.wrong))


def measure(jobs: Iterable[Job], plan: Plan, where: Machine, note: Note) -> Measured:
    """Time jobs beside each other under every load. What one fails at is noted and does not stop the others.

    A pool of threads spins inside of a process, so that for the load `pool` there is another process of each job.
    """
    jobs, found = list(jobs), Measured()
    beside = [name for name in plan.loads if name != "pool"]
    if beside and jobs:
        _measure(jobs, beside, plan, where, note, found)
    if "pool" in plan.loads and jobs:
        _measure([replace(job, has_pool=True) for job in jobs], ["pool"], plan, where, note, found)
    return found


def write(job: Job, timeout_s: float) -> None:
    """Run a job that writes a file for others.

    Raises:
        Failed: it could not.
    """
    with Worker(job, timeout_s) as worker:
        worker.wait_until_ready()


def _measure(
    jobs: Sequence[Job], loads: Sequence[str], plan: Plan, where: Machine, note: Note, found: Measured
) -> None:
    with ExitStack() as stack:
        workers: dict[Job, Worker] = {}
        facts: dict[Job, dict[str, Any]] = {}
        for job in jobs:
            note(f"{_title(job)}: building")
            worker = stack.enter_context(Worker(job, plan.timeout_s))
            try:
                facts[job] = worker.wait_until_ready()
                workers[job] = worker
            except Failed as error:
                worker.stop()
                found.skip(job, error)
        for name in loads:
            samples: dict[Job, list[float]] = {job: [] for job in workers}
            turns = {job: worker.turn for job, worker in workers.items()}
            note(f"{_title(jobs[0])}, load {name}: timing")
            with load(name):
                for job, taken_ms in take_own_turns(turns, plan.rounds, lambda job: None):
                    if isinstance(taken_ms, Exception):
                        found.skip(job, Failed(f"{taken_ms} ({job.threads} threads, load {name})"))
                        workers.pop(job).stop()
                        del samples[job]
                    else:
                        samples[job] += taken_ms
            found.rows += [(job, _row(job, name, taken, facts[job], where)) for job, taken in samples.items()]


def _title(job: Job) -> str:
    return f"{' '.join(job.columns)}, threads {job.threads}"


def _row(job: Job, name: str, taken_ms: list[float], facts: dict[str, Any], where: Machine) -> Row:
    own = replace(where, threads=job.threads)
    row = Row.of(*job.columns, percentiles(taken_ms), facts["peak_mib"], own)
    return replace(row.with_rates(facts["flop"], facts["bytes"]), load=name)
