"""Providers timed in turns, and the memory that a run takes."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

Name = TypeVar("Name")

TURN_SECONDS = 0.05
"""A turn repeats a short run until it has lasted so long."""
MOST_REPETITIONS = 100
PATIENCE_SECONDS, FEWEST_SAMPLES = 30.0, 3
"""A provider that has taken so much time sits out the remaining rounds, once it has so many samples."""
L2_BYTES = 256 * 2**20
"""Written between runs where the device does not tell the size of its second-level cache: more than any has."""


@dataclass(frozen=True)
class Percentiles:
    """Percentiles of the time of one run, in milliseconds."""

    p20: float
    p50: float
    p80: float


class Clock:
    """Times runs on a device: wall time on a CPU, CUDA events after emptying the L2 cache on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._flush: Tensor | None = None
        if device.type == "cuda":
            cache = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0)
            self._flush = torch.empty(2 * cache or L2_BYTES, dtype=torch.int8, device=device)

    def samples(self, run: Callable[[], object], repetitions: int) -> list[float]:
        """Milliseconds of each of some runs, results dropped at once."""
        if self._flush is None:
            return [self._wall_ms(run) for _ in range(repetitions)]
        events = []
        for _ in range(repetitions):
            self._flush.zero_()  # also gives the CPU a head start, as it has inside a larger network
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            events.append((start, end))
        torch.cuda.synchronize(self.device)
        return [start.elapsed_time(end) for start, end in events]

    def _wall_ms(self, run: Callable[[], object]) -> float:
        start = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - start)


def take_turns(
    runs: Mapping[str, Callable[[], object]], clock: Clock, rounds: int, note: Callable[[str], None]
) -> Iterator[tuple[str, list[float] | Exception]]:
    """Yield (name, milliseconds of every run of one turn), the providers one after the other in every round.

    One that raises is out: its exception is yielded instead, once.

    Args:
        note: told whose turn it is.
    """
    return take_own_turns({name: partial(turn, run, clock) for name, run in runs.items()}, rounds, note)


def take_own_turns(
    turns: Mapping[Name, Callable[[int | None], list[float]]], rounds: int, note: Callable[[Name], None]
) -> Iterator[tuple[Name, list[float] | Exception]]:
    """`take_turns` of providers that time themselves: repetitions, None at first -> milliseconds of each run."""
    spent_ms = dict.fromkeys(turns, 0.0)
    counts = dict.fromkeys(turns, 0)
    repetitions: dict[Name, int] = {}
    failed: set[Name] = set()
    for _ in range(rounds):
        for name, take in turns.items():
            patient = spent_ms[name] <= 1e3 * PATIENCE_SECONDS or counts[name] < FEWEST_SAMPLES
            if name in failed or not patient:
                continue
            note(name)
            try:
                taken_ms = take(repetitions.get(name))
            except Exception as error:  # memory can run out now that all providers are there
                failed.add(name)
                yield name, error
                continue
            repetitions[name] = len(taken_ms)
            spent_ms[name] += sum(taken_ms)
            counts[name] += len(taken_ms)
            yield name, taken_ms


def turn(run: Callable[[], object], clock: Clock, repetitions: int | None) -> list[float]:
    """The runs of a turn; how many, the first turn finds out. What the others evicted comes back in an untimed run,
    unless a run is so long that this hardly counts."""
    with _quiet():
        if repetitions == 1:
            return clock.samples(run, 1)
        warm_up_ms = clock.samples(run, 1)
        if repetitions is None:
            repetitions = min(MOST_REPETITIONS, math.ceil(1e3 * TURN_SECONDS / max(warm_up_ms[0], 1e-3)))
        return warm_up_ms if repetitions == 1 else clock.samples(run, repetitions)


@contextmanager
def _quiet() -> Iterator[None]:
    """No garbage collection inside."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def percentiles(values_ms: list[float]) -> Percentiles:
    """20th, 50th and 80th."""
    if len(values_ms) == 1:
        return Percentiles(*values_ms * 3)
    fifths = statistics.quantiles(values_ms, n=5, method="inclusive")
    return Percentiles(fifths[0], statistics.median(values_ms), fifths[3])


def peak_mib(run: Callable[[], object], device: torch.device, pools_before: int) -> float | None:
    """Memory that a run allocates at its peak beyond what was there before, results included, MiB; None on a CPU.

    A CUDA graph keeps its memory in a pool of its own, which counts whole.

    Args:
        pools_before: `graph_pool_bytes` before this run's graph was made.
    """
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - before
    return max(peak, graph_pool_bytes(device) - pools_before) / 2**20


def graph_pool_bytes(device: torch.device) -> int:
    """Memory held by the private pools of CUDA graphs."""
    if device.type != "cuda":
        return 0
    default = (0, 0)
    return sum(
        segment["total_size"]
        for segment in torch.cuda.memory_snapshot()
        if tuple(segment.get("segment_pool_id", default)) != default
    )


def free() -> None:
    """Give back the GPU memory that the last provider left."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
