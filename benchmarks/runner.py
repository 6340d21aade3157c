"""One run: every provider of a case is built, checked, weighed, and then timed in turns with the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from dyzoo.errors import first_line, full_memory

from . import gate
from .cases import Case
from .precision import tf32
from .providers import Provider, Unavailable
from .providers.prepare import Run, prepare
from .rows import Machine, Row
from .timing import Clock, free, graph_pool_bytes, peak_mib, percentiles, take_turns

PASSES = ("forward", "training step")

Note = Callable[[str], None]


@dataclass(frozen=True)
class Skipped:
    """A provider that was not timed, and why.

    Attributes:
        wrong: it computes something else than the others.
    """

    op: str
    pass_: str
    shape: str
    dtype: str
    provider: str
    reason: str
    wrong: bool = False


def measure(
    case: Case,
    providers: Iterable[Provider],
    pass_: str,
    clock: Clock,
    where: Machine,
    rounds: int,
    compile_: bool = False,
    note: Note = lambda line: None,
) -> tuple[list[Row], list[Skipped]]:
    """Time the providers of a case in one pass. What one of them fails at is noted and does not stop the others.

    Args:
        pass_: one of `PASSES`.
        where: the columns shared by all rows.
        rounds: number of times that the providers take turns.
        compile_: whether providers under `torch.compile` take part.
        note: told what is going on.
    """
    precision, device = case.setup.precision, case.setup.device
    columns = (case.op, pass_, case.setup.shape, precision.name)
    skipped: list[Skipped] = []
    ready: dict[str, Run] = {}
    peaks: dict[str, float | None] = {}

    def skip(name: str, error: Exception) -> None:
        skipped.append(Skipped(*columns, name, reason_of(error), isinstance(error, gate.WrongResult)))

    chosen = [provider for provider in providers if provider.applies(precision)]
    note(f"{' '.join(columns)}: the truth")
    try:
        expected = gate.truth(case, pass_)
    except torch.OutOfMemoryError:
        reason = "the truth to compare with does not fit the memory"
        return [], [Skipped(*columns, provider.name(precision), reason) for provider in chosen]
    with tf32(precision.tf32_matmul, precision.tf32_cudnn):
        for provider in chosen:
            name = provider.name(precision)
            note(f"{' '.join(columns)}: checking {name}")
            free()
            pools_before = graph_pool_bytes(device)
            try:
                run = prepare(case, provider, pass_, compile_)
                if provider.exact:
                    gate.check(run(), expected, precision.name)
                else:
                    run()
                peaks[name] = peak_mib(run, device, pools_before)
                ready[name] = run
            except Exception as error:  # whatever another package raises
                skip(name, error)
        del expected
        free()
        samples = _timed(ready, clock, rounds, skip, lambda name: note(f"{' '.join(columns)}: timing {name}"))
    del ready
    if compile_:
        torch.compiler.reset()
    free()
    work = case.work.of(pass_)
    rows = [
        Row.of(*columns, name, percentiles(taken_ms), peaks[name], where).with_rates(work.flop, work.bytes)
        for name, taken_ms in samples.items()
    ]
    return rows, skipped


def reason_of(error: Exception) -> str:
    """Why a provider that raised this was not timed."""
    if isinstance(error, Unavailable):
        return str(error)
    if isinstance(error, gate.WrongResult):
        return f"wrong: {error}"
    if full_memory(error):
        return "out of memory"
    return f"failed: {type(error).__name__}: {first_line(error)}"


def _timed(
    ready: dict[str, Run], clock: Clock, rounds: int, skip: Callable[[str, Exception], None], note: Note
) -> dict[str, list[float]]:
    """Milliseconds of every run by provider; one that fails on the way is taken out."""
    samples: dict[str, list[float]] = {name: [] for name in ready}
    for name, taken_ms in take_turns(ready, clock, rounds, note):
        if isinstance(taken_ms, Exception):
            skip(name, taken_ms)
            del samples[name]
        else:
            samples[name] += taken_ms
    return samples
