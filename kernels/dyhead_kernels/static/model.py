"""A time model: of every launch the time that each of its limits allows, and the largest of them.

What counts: bytes through main memory and through the L2 cache, atomics, products on tensor cores, instructions to
issue, and the latency of a program that waits for its loads and its barriers. Nothing here has been measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from math import ceil, log2, prod
from typing import TYPE_CHECKING

from .cards import ALONE_CYCLES, BARRIER_CYCLES, CARDS, LAUNCH_US, LOAD_CYCLES, SCHEDULERS, Card
from .disassembly import Code, Counts
from .jobs import Recorded, job_of, recorded
from .resources import Resources, compile_code
from .traffic import Arguments, Asked, Repeat, asked

if TYPE_CHECKING:
    from ..launch.launching import Launch

ASIDE = "(PyTorch's own)"
"""The name of all that runs between a block's launches: copies of weights, zeroed buffers, sums of parts."""
DEPENDENT_LOADS = 4
"""Rounds of loads outside loops that a program waits for one after the other: its tile, its map, its data."""
BLOCKS = 6

LIMITS = ("memory", "l2", "atomics", "tensor", "issue", "latency")


@dataclass(frozen=True)
class Prediction:
    """One launch on one card.

    Attributes:
        memory_bytes, l2_bytes, atomic_bytes: that it moves; the second is the first where no formula is known.
        matrix_flop, cuda_flop: operations that it does, as compiled: padding and the parts of TF32 sums included.
        loops: instructions of a warp in an iteration of each innermost loop.
        instructions: of a warp in a whole program, on average.
        programs, resident: of the launch, and at a time on a multiprocessor.
        waves: rounds in which the multiprocessors go through the programs.
        limits_us: the time that each of `LIMITS` allows.
        us: the largest of them and what a launch costs.
        formula: whether the traffic of this kernel is known (`traffic.FORMULAS`).
    """

    launch: str
    pass_: str
    dtype: str
    channels: int
    card: str
    memory_bytes: float
    l2_bytes: float
    atomic_bytes: float
    matrix_flop: float
    cuda_flop: float
    loops: tuple[int, ...]
    instructions: float
    programs: int
    resident: int
    waves: int
    limits_us: dict[str, float]
    us: float
    formula: bool = True

    @property
    def bound(self) -> str:
        """The limit that is reached first; "launch" where all are below what a launch costs."""
        name, most = max(self.limits_us.items(), key=lambda item: item[1])
        return name if most > self.us - most else "launch"


def predict(launch: Launch, resources: Resources, code: Code, pass_: str, card_name: str) -> Prediction:
    """The prediction of one launch that was compiled for the card's target."""
    card = CARDS[card_name]
    found = asked(launch, card.l1_kib * 1024 / resources.programs - resources.shared_bytes)
    memory = Arguments(launch).memory_bytes
    l2, atomics = (found.l2_bytes, found.atomic_bytes) if found else (memory, 0.0)
    mean = _executed(code, found, resources.warps, longest=False)
    longest = _executed(code, found, resources.warps, longest=True)
    programs, warps = prod(launch.grid), resources.warps
    slots = card.multiprocessors * resources.programs
    waves = ceil(programs / slots)
    busiest = ceil(programs / card.multiprocessors)  # programs of the multiprocessor that has most
    cycles = max(_alone(longest, warps, card), waves * _alone(mean, warps, card))
    limits = {
        "memory": memory / card.memory_tbps / 1e6,
        "l2": l2 / card.l2_tbps / 1e6,
        "atomics": atomics / card.atomics_tbps / 1e6,
        "tensor": _us(busiest * _tensor_cycles(mean, warps, card), card),
        "issue": _us(busiest * warps * mean.instructions / SCHEDULERS, card),
        "latency": _us(cycles, card),
    }
    return Prediction(
        launch=launch.name,
        pass_=pass_,
        dtype=resources.dtype,
        channels=resources.channels,
        card=card_name,
        memory_bytes=memory,
        l2_bytes=l2,
        atomic_bytes=atomics,
        matrix_flop=programs * warps * mean.matrix_flop,
        cuda_flop=programs * warps * mean.cuda_flop,
        loops=resources.loops,
        instructions=round(mean.instructions),
        programs=programs,
        resident=resources.programs,
        waves=waves,
        limits_us={name: round(us, 2) for name, us in limits.items()},
        us=round(max(limits.values()) + LAUNCH_US, 2),
        formula=found is not None,
    )


def _us(cycles: float, card: Card) -> float:
    return cycles / card.clock_ghz / 1e3


def _alone(executed: Counts, warps: int, card: Card) -> float:
    """Cycles of a program that has a multiprocessor for itself: its warps wait for its loads and its products."""
    waiting = LOAD_CYCLES * executed.loads + BARRIER_CYCLES * executed.barriers
    return ALONE_CYCLES * executed.instructions + waiting + _tensor_cycles(executed, warps, card)


def _tensor_cycles(executed: Counts, warps: int, card: Card) -> float:
    """Cycles of a program's products on the tensor cores of one multiprocessor."""
    us = warps * (executed.half_flop / card.half_tflops + executed.tf32_flop / card.tf32_tflops) / 1e6
    return us * card.multiprocessors * card.clock_ghz * 1e3


def _executed(code: Code, found: Asked | None, warps: int, longest: bool) -> Counts:
    """Counts of a warp in a whole program, the average one or the longest; `loads` are rounds of waiting."""
    own = replace(code.own, loads=min(code.own.loads, DEPENDENT_LOADS))
    return own + _repeated(code.loops, found.loops if found else (), warps, longest)


def _repeated(loops: Sequence[Code], repeats: Sequence[Repeat], warps: int, longest: bool) -> Counts:
    total = Counts()
    for loop, repeat in _paired(loops, repeats):
        times = (repeat.most if longest else repeat.times) / _unrolled(loop, repeat, warps)
        own = loop.own + loop.skipped * (repeat.share - 1)
        total += (own + _repeated(loop.loops, repeat.loops, warps, longest)) * times
    return total


def _paired(loops: Sequence[Code], repeats: Sequence[Repeat]) -> Iterator[tuple[Code, Repeat]]:
    """Loops of the code with those of the source: a compiler removes the shortest, and adds short ones for what
    unrolling leaves over."""
    known: list[Repeat] = []
    for repeat in repeats:
        known += repeat.loops if repeat.most <= 1 else (repeat,)
    kept = sorted(range(len(known)), key=lambda index: -known[index].most)[: len(loops)]
    matched = [known[index] for index in sorted(kept)]
    main = sorted(range(len(loops)), key=lambda index: -loops[index].once.instructions)[: len(matched)]
    rest = iter(matched)
    for index, loop in enumerate(loops):
        yield loop, next(rest) if index in main else Repeat(1)


def _unrolled(loop: Code, repeat: Repeat, warps: int) -> int:
    """Iterations of the source that one of the code has, as its products tell: a power of two."""
    if loop.loops or not repeat.whole_flop or not loop.own.matrix_flop:
        return 1
    return max(1, 1 << int(log2(max(1.0, warps * loop.own.matrix_flop / repeat.whole_flop))))


def _aside(own: Recorded, pass_: str, dtype: str, channels: int, card_name: str) -> Prediction:
    """PyTorch's own operations of a pass, one launch each."""
    moved, launches = float(sum(own.aside)), len(own.aside)
    memory_us = moved / CARDS[card_name].memory_tbps / 1e6
    limits = {**dict.fromkeys(LIMITS, 0.0), "memory": round(memory_us, 2)}
    us = round(memory_us + launches * LAUNCH_US, 2)
    return Prediction(
        ASIDE, pass_, dtype, channels, card_name, moved, moved, 0, 0, 0, (), 0, launches, 0, 0, limits, us
    )


def model(dtypes: Sequence[str], channels: int, cards: Sequence[str], pool: Executor) -> Iterator[Prediction]:
    """Every launch of a block, forward then backward, on every card in every dtype."""
    for card in cards:
        target = CARDS[card].target
        for dtype in dtypes:
            passes = recorded(dtype, channels, target)
            work = [(pass_, launch) for pass_, own in passes.items() for launch in own.launches]
            compiled = pool.map(compile_code, [job_of(launch, dtype, channels, target) for _, launch in work])
            found = [predict(launch, *each, pass_, card) for (pass_, launch), each in zip(work, compiled, strict=True)]
            for pass_, own in passes.items():
                yield from (each for each in found if each.pass_ == pass_)
                yield _aside(own, pass_, dtype, channels, card)


def totals_us(predictions: Sequence[Prediction]) -> dict[str, float]:
    """Microseconds of a block forward and backward, of six blocks forward, and of a training step of six."""
    each = {pass_: sum(one.us for one in predictions if one.pass_ == pass_) for pass_ in ("forward", "backward")}
    return {
        "block forward": each["forward"],
        "block backward": each["backward"],
        f"{BLOCKS} blocks forward": BLOCKS * each["forward"],
        f"{BLOCKS} blocks, a training step": BLOCKS * (each["forward"] + each["backward"]),
    }
