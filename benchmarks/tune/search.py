"""The search for one kernel's launch parameters: compile, time all that fit, compare and time the best again.

The default stays unless another is faster by at least `MARGIN` in `ROUNDS_WON` of the rounds of the last comparison, in
which all take turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil

import torch
from dyhead_kernels.launch.tuning import kind_of, overriding
from dyhead_kernels.static import Job, Resources, job_of
from torch import Tensor

from dyzoo.errors import first_line

from .problem import OPERATIONS, Operation, Problem, Results, record, results
from .space import SPACES, Parameters, Space, first_candidates, later_candidates
from .timing import Timer

MARGIN = 0.02
ROUNDS, ROUNDS_WON = 10, 0.8
FINALISTS = 5
VARIED = 3
"""Number of the best candidates that are varied by what `Space.later` has."""

MOST_SPILL_BYTES = 32
"""Most spilled bytes of a thread. Eight registers written and read back are some instructions beside the hundreds of an
inner loop, and may be outside it: only time tells. What spills more is not timed."""

COMPILING, TIMING = 0.5, 0.85
"""Shares of a kernel's time after which compiling, and the first timing, come to an end."""

NORM_TOLERANCE = {"half": 1e-2, "float32": 1e-3}
"""Largest difference of two results, relative to the norm: orders of sums differ, and so does what is then rounded."""
ELEMENT_TOLERANCE, OUTLIERS = {"half": 3e-2, "float32": 3e-3}, 1e-5
"""Largest difference of single elements, relative to the largest, but for so many that rounding decides by a max."""

Compile = Callable[[Iterable[Job], float], dict[Job, Resources | str]]
Chosen = dict[str, dict[str, Parameters]]


@dataclass(frozen=True)
class Outcome:
    """Result for one kernel: medians in milliseconds of the default (None if it does not run here) and of the best."""

    kernel: str
    kind: str
    default_ms: float | None
    best_ms: float
    best: Parameters
    timed: int
    possible: int


class NothingRunsError(RuntimeError):
    """Neither the default nor another candidate runs."""


@dataclass
class Search:
    """State that all kernels of a dtype share.

    Attributes:
        problem, sketch: the block with real tensors, and with meta tensors to compile for.
        target, shared_bytes: the GPU, as `static` names it, and what a program may use.
        warn, note: told of what was dropped for giving wrong results, and of what goes on.
        chosen: the parameters found so far; in force from then on.
    """

    problem: Problem
    sketch: Problem
    target: str
    shared_bytes: int
    compile: Compile
    timer: Timer
    warn: Callable[[str], None]
    note: Callable[[str], None]
    chosen: Chosen = field(default_factory=dict)

    def tune(self, kernel: str, starts: Sequence[Parameters], seconds: float) -> Outcome:
        """Find parameters for one kernel, and put them in force.

        Args:
            starts: the default, and others to try beside the space around it.
            seconds: it may take, if only roughly: the default is always timed.

        Raises:
            NothingRunsError: on this GPU.
        """
        began = time.monotonic()
        one = _Kernel(self, kernel, SPACES[kernel], OPERATIONS[kernel], starts[0])
        candidates = first_candidates(one.space, starts[0])
        candidates += [start for start in starts if start not in candidates]
        self.note(f"{kernel}: compiling {len(candidates)} candidates")
        fitting = one.fitting(candidates, began + COMPILING * seconds)
        self.note(f"{kernel}: timing {len(fitting)} candidates")
        one.time(fitting, began + TIMING * seconds)
        later = later_candidates(one.space, one.ranking()[:VARIED])
        later = one.fitting([each for each in later if each not in candidates], began + TIMING * seconds)
        one.time(later, began + TIMING * seconds)
        self.note(f"{kernel}: comparing the best")
        outcome = one.decide(len(candidates))
        self.chosen.setdefault(kernel, {})[outcome.kind] = outcome.best
        return outcome


class _Kernel:
    def __init__(self, search: Search, kernel: str, space: Space, operation: Operation, default: Parameters) -> None:
        self.search, self.kernel, self.space, self.operation, self.default = search, kernel, space, operation, default
        self.dtype = search.problem.values.dtype
        self.kind = "any" if space.every_dtype else kind_of(self.dtype)
        self._expected: Results | None = None
        self._ms: list[tuple[float, Parameters]] = []

    def fitting(self, candidates: Sequence[Parameters], deadline: float) -> list[Parameters]:
        """Candidates that compile before the deadline, spill little and fit into shared memory; the default anyway."""
        jobs = [self._jobs(candidate) for candidate in candidates]
        found = self.search.compile((job for group in jobs for job in group), deadline)
        return [
            candidate
            for candidate, group in zip(candidates, jobs, strict=True)
            if candidate == self.default or all(self._fits(found.get(job)) for job in group)
        ]

    def _jobs(self, candidate: Parameters) -> list[Job]:
        sketch = self.search.sketch
        with overriding(self._table(candidate)):
            launches = record(self.operation, sketch, self.operation.launched).launches
        dtype = str(self.dtype).removeprefix("torch.")
        return [job_of(each, dtype, sketch.channels, self.search.target) for each in launches]

    def _fits(self, found: Resources | str | None) -> bool:
        if not isinstance(found, Resources):
            return False
        return found.spill_bytes <= MOST_SPILL_BYTES and found.shared_bytes <= self.search.shared_bytes

    def _table(self, candidate: Parameters) -> Chosen:
        return {**self.search.chosen, self.kernel: {self.kind: candidate}}

    def time(self, candidates: Sequence[Parameters], deadline: float) -> None:
        """Time each alone, the default whatever the deadline."""
        wanted = (*self.operation.launched, *self.operation.timed_with)
        for candidate in candidates:
            if time.monotonic() > deadline and self._ms:
                return
            try:
                with overriding(self._table(candidate)):
                    if self._expected is None:  # also computes what the operation reads
                        self._expected = results(self.operation, self.search.problem)
                    run = record(self.operation, self.search.problem, wanted)
                    self._ms.append((self.search.timer([run], 1)[0][0], candidate))
            except Exception as error:
                self._dropped(candidate, error)

    def ranking(self) -> list[Parameters]:
        """Candidates that were timed, fastest first."""
        return [candidate for _, candidate in sorted(self._ms, key=lambda timed: timed[0])]

    def decide(self, possible: int) -> Outcome:
        """Time the fastest of those that are right in turns with the default."""
        ranked = self.ranking()
        finalists = [self.default] if self.default in ranked else []
        for candidate in ranked:
            if len(finalists) > FINALISTS:
                break
            if candidate != self.default and self._right(candidate):
                finalists.append(candidate)
        if not finalists:
            raise NothingRunsError(f"{self.kernel}: neither the default launch parameters nor others run on this GPU")
        runs = []
        for candidate in finalists:
            with overriding(self._table(candidate)):
                runs.append(
                    record(self.operation, self.search.problem, (*self.operation.launched, *self.operation.timed_with))
                )
        rounds = self.search.timer(runs, ROUNDS)
        medians = [sorted(each)[len(each) // 2] for each in rounds]
        best = min(range(len(finalists)), key=lambda index: medians[index])
        default_ms = None
        if finalists[0] == self.default:
            default_ms = medians[0]
            faster = [index for index, each in enumerate(rounds) if index and beats(each, rounds[0])]
            best = min(faster, key=lambda index: medians[index], default=0)
        return Outcome(self.kernel, self.kind, default_ms, medians[best], finalists[best], len(self._ms), possible)

    def _right(self, candidate: Parameters) -> bool:
        try:
            with overriding(self._table(candidate)):
                found = results(self.operation, self.search.problem)
        except Exception as error:
            self._dropped(candidate, error)
            return False
        assert self._expected is not None
        if agree(found, self._expected, kind_of(self.dtype)):
            return True
        self.search.warn(f"{self.kernel}: {shown(candidate)} gives other results than the default and is left out")
        return False

    def _dropped(self, candidate: Parameters, error: Exception) -> None:
        device = self.search.problem.values.device
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # raises where the GPU has given up: then nothing can be timed any more
        self.search.warn(f"{self.kernel}: {shown(candidate)} does not run: {first_line(error)}")


def beats(candidate_ms: Sequence[float], default_ms: Sequence[float]) -> bool:
    """Whether a candidate is faster by more than noise: by `MARGIN` in `ROUNDS_WON` of the rounds."""
    won = sum(mine <= (1 - MARGIN) * default for mine, default in zip(candidate_ms, default_ms, strict=True))
    return won >= ceil(ROUNDS_WON * len(default_ms))


def agree(found: Results, expected: Results, kind: str) -> bool:
    """Whether results differ by no more than orders of sums and rounding explain."""
    return len(found) == len(expected) and all(
        _close(mine, other, kind) for mine, other in zip(found, expected, strict=True)
    )


def _close(found: Tensor, expected: Tensor, kind: str) -> bool:
    if found.shape != expected.shape:
        return False
    found, expected = found.float(), expected.float()
    difference = found - expected
    # Not `>`: a comparison with NaN is false.
    if not bool(difference.norm() <= NORM_TOLERANCE[kind] * expected.norm()):
        return False
    most = ELEMENT_TOLERANCE[kind] * expected.abs().amax() if expected.numel() else 0.0
    return int((difference.abs() > most).sum()) <= OUTLIERS * expected.numel()


def shown(parameters: Parameters) -> str:
    """`BLOCK_P 64, TILE_W 8, num_warps 4`."""
    return ", ".join(f"{name} {value}" for name, value in parameters.items())
