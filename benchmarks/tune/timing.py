"""Timing of recorded launches on a GPU, each as a CUDA graph: no time of the CPU between or before them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

import torch

from ..timing import Clock
from .problem import Run

Timer = Callable[[Sequence[Run], int], list[list[float]]]
"""Runs and a number of rounds -> of each run, its milliseconds in each round; in a round all take turns."""

TURN_MS = 5.0
FEWEST, MOST = 5, 20


class GpuTimer:
    """Medians of a few replays per round, the L2 cache emptied before each."""

    def __init__(self, device: torch.device) -> None:
        self._clock = Clock(device)

    def __call__(self, runs: Sequence[Run], rounds: int) -> list[list[float]]:
        """Time the runs, see `Timer`.

        Raises:
            RuntimeError: a launch fails.
        """
        replays = [self._graph(run).replay for run in runs]
        repetitions = []
        for replay in replays:
            self._clock.samples(replay, 1)
            once_ms = self._clock.samples(replay, 1)[0]
            repetitions.append(min(MOST, max(FEWEST, math.ceil(TURN_MS / max(once_ms, 1e-3)))))
        found: list[list[float]] = [[] for _ in runs]
        for _ in range(rounds):
            for replay, count, medians in zip(replays, repetitions, found, strict=True):
                medians.append(statistics.median(self._clock.samples(replay, count)))
        return found

    def _graph(self, run: Run) -> torch.cuda.CUDAGraph:
        run()  # loads the kernels, which a capture may not
        torch.cuda.synchronize(self._clock.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        return graph
