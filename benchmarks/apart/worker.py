"""The process that measures one job, told when by another: builds it, weighs it, compares it, then runs its turns.

It is started with the number of a file descriptor, a pipe of `multiprocessing` to the other process. That sends a job
as a dictionary and gets ("ready", its work and memory), ("written",) or ("failed", reason, whether it is wrong). Then
each number of repetitions, None for the first, is answered by ("taken", milliseconds) or ("failed", ...).
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import torch

from dyzoo.evaluation.cost import peak_resident, reset_peak_resident

from .. import gate
from ..cases import Case
from ..providers import PROVIDERS
from ..providers.prepare import Results, Run, prepare
from ..runner import reason_of
from ..timing import Clock, turn
from ..work import Work
from .detectors import DETECTORS, prepare_detector
from .job import EXPORT, ONNXRUNTIME, PRECISION, TRUTH, Job, Sizes
from .onnx_graphs import export_case, prepare_onnxruntime
from .pool import spinning_pool

TRUTH_FILE, MODEL_FILE = "truth.pt", "model.onnx"
WEIGHED_RUNS = 2


def main(connection: Connection) -> None:
    """Serve until the other process is gone."""
    told: dict[str, Any] = connection.recv()
    job = Job(**{**told, "sizes": Sizes(**told["sizes"])})
    torch.set_num_threads(job.threads)
    try:
        case = job.build()
        if job.provider in (TRUTH, EXPORT):
            _write(job, case)
            connection.send(("written",))
            return
        run, peak_mib = _prepared(job, case)
        # another detector does other work than the case counts
        work = Work(0, None) if job.provider in DETECTORS else case.work.of(job.pass_)
        awake = spinning_pool() if job.has_pool else nullcontext
        connection.send(("ready", {"flop": work.flop or None, "bytes": work.bytes, "peak_mib": peak_mib}))
        clock = Clock(job.setup.device)
        while True:
            repetitions = connection.recv()
            with awake():
                taken_ms = turn(run, clock, repetitions)
            connection.send(("taken", taken_ms))
    except EOFError:
        return
    except Exception as error:  # whatever another package raises
        connection.send(("failed", reason_of(error), isinstance(error, gate.WrongResult)))


def _write(job: Job, case: Case) -> None:
    folder = Path(job.folder)
    if job.provider == TRUTH:
        torch.save(gate.truth(case, job.pass_), folder / TRUTH_FILE)
    else:
        export_case(case, folder / MODEL_FILE)


def _prepared(job: Job, case: Case) -> tuple[Run, float | None]:
    """The run that is timed, compared with the truth if there is one, and the memory that it takes."""
    folder = Path(job.folder)
    if job.provider == ONNXRUNTIME:
        run, is_exact = prepare_onnxruntime(case, folder / MODEL_FILE), True
    elif job.provider in DETECTORS:
        run, is_exact = prepare_detector(DETECTORS[job.provider], case), False
    else:
        provider = PROVIDERS[job.provider]
        run, is_exact = prepare(case, provider, job.pass_, compile_=False), provider.exact
    results, peak_mib = _weighed(run)
    if is_exact and job.folder:
        gate.check(results, torch.load(folder / TRUTH_FILE), PRECISION.name)
    return run, peak_mib


def _weighed(run: Run) -> tuple[Results, float | None]:
    """The results of the first runs, and the most MiB resident meanwhile beyond what was before; None if untold."""
    before = psutil.Process().memory_info().rss
    reset_peak_resident()
    for _ in range(WEIGHED_RUNS - 1):
        run()
    results = run()
    peak = peak_resident()
    return results, None if peak is None else max(0, peak - before) / 2**20


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])))
