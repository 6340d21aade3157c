"""Instructions that a warp of a compiled kernel executes, by loop, counted in the disassembly for NVIDIA's GPUs.

A branch that goes back closes a loop. Code under a condition counts as executed.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*)([\w.]*)(.*?);")
_WARPGROUP = 4  # warps that share one HGMMA
_LANES = 32
_CUDA_FLOP = {"FFMA": 2, "FADD": 1, "FMUL": 1, "HFMA2": 4, "HADD2": 2, "HMUL2": 2}
"""Operations of a lane: those on packed halves do two at a time."""


@dataclass(frozen=True)
class Counts:
    """Counts of a warp in a stretch of code.

    Attributes:
        instructions: all that it issues.
        half_flop, tf32_flop: its share of the operations on tensor cores, by the precision of the factors.
        cuda_flop: its lanes' operations on CUDA cores.
        loads: times that it waits for loads from global memory; those waited for together are one, those in flight
            during a product on tensor cores none.
        barriers: times that it waits for the program's other warps.
    """

    instructions: float = 0
    half_flop: float = 0
    tf32_flop: float = 0
    cuda_flop: float = 0
    loads: float = 0
    barriers: float = 0

    @property
    def matrix_flop(self) -> float:
        """All operations on tensor cores."""
        return self.half_flop + self.tf32_flop

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(mine + its for mine, its in zip(vars(self).values(), vars(other).values(), strict=True)))

    def __mul__(self, times: float) -> Counts:
        return Counts(*(mine * times for mine in vars(self).values()))


@dataclass(frozen=True)
class Code:
    """A kernel, or a loop of one: what is outside its loops, and its loops in the order of addresses.

    Attributes:
        skipped: the part of `own` that branches may leave out.
    """

    own: Counts
    loops: tuple[Code, ...] = ()
    skipped: Counts = Counts()

    @property
    def once(self) -> Counts:
        """Everything once: of a loop without others in it, one iteration."""
        return sum((loop.once for loop in self.loops), self.own)

    @property
    def innermost(self) -> tuple[Code, ...]:
        """The loops that have no loops in them."""
        return tuple(each for loop in self.loops for each in (loop.innermost or (loop,)))


def disassembled(cubin: bytes) -> str:
    """Instructions and resources, as the disassembler that comes with Triton prints them."""
    import triton.backends.nvidia

    tool = Path(triton.backends.nvidia.__path__[0]) / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [str(tool), "-sass", "--dump-resource-usage", str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def code_of(text: str) -> Code:
    """The loops of `disassembled` text; of a text without instructions, nothing."""
    found: list[tuple[int, Counts]] = []
    instructions = list(_instructions(text))
    targets = [_target(address, name, operands) for address, name, _, operands in instructions]
    ends: dict[int, int] = {}
    skips: list[tuple[int, int]] = []
    for (address, *_), target in zip(instructions, targets, strict=True):
        if target < address:
            ends[target] = max(address, ends.get(target, 0))
        elif target > address:
            skips.append((address, target))
    pending: set[int] = set()  # registers that loads are still to fill
    multiplied = False  # since the first of those loads
    for (address, name, suffix, operands), target in zip(instructions, targets, strict=True):
        if address in ends and pending:  # what is loaded before a loop is waited for once, not in every iteration
            before, counts = found[-1]
            found[-1] = before, counts + Counts(loads=not multiplied)
            pending.clear()
            multiplied = False
        read_or_written = map(int, re.findall(r"\bR(\d+)", operands))
        waits = bool(pending) and (target < address or not pending.isdisjoint(read_or_written))
        multiplied |= _matrix_flop(name, suffix) > 0
        found.append((address, _counts(name, suffix, waits and not multiplied)))
        if waits:
            pending.clear()
        if not pending:
            multiplied = False
        if name == "LDG" and (first := re.match(r"\s*R(\d+)", operands)):
            pending.update(range(int(first[1]), int(first[1]) + _registers(suffix)))
    return _nest(found, sorted(ends.items()), skips)


def _instructions(text: str) -> Iterator[tuple[int, str, str, str]]:
    for line in text.splitlines():
        match = _INSTRUCTION.match(line)
        if match and match[2] != "NOP":
            yield int(match[1], 16), match[2], match[3], match[4]


def _target(address: int, name: str, operands: str) -> int:
    """The address that a jump leads to; else the instruction's own, as of the trap behind the end."""
    targets = re.findall(r"0x([0-9a-f]+)", operands) if name == "BRA" else []
    return int(targets[-1], 16) if targets else address


def _nest(
    found: Sequence[tuple[int, Counts]], spans: Sequence[tuple[int, int]], skips: Sequence[tuple[int, int]]
) -> Code:
    """Instructions and the loops (first address, last) among them, outer ones first; forward branches (from, to)."""
    loops, outer = [], list(found)
    while spans:
        first, last = spans[0]
        within = [span for span in spans[1:] if span[0] <= last]
        last = max([last, *(end for _, end in within)])
        loops.append(_nest([each for each in outer if first <= each[0] <= last], within, skips))
        outer = [each for each in outer if not first <= each[0] <= last]
        spans = [span for span in spans[1:] if span not in within]
    here = [(start, end) for start, end in skips if outer and outer[0][0] <= start and end <= outer[-1][0]]
    skipped = (counts for address, counts in outer if any(start < address < end for start, end in here))
    return Code(sum((counts for _, counts in outer), Counts()), tuple(loops), sum(skipped, Counts()))


def _registers(suffix: str) -> int:
    """Registers that a load fills, by its width in bits."""
    return max(1, int((re.findall(r"\.(32|64|128)\b", suffix) or ["32"])[-1]) // 32)


def _counts(name: str, suffix: str, waits: bool) -> Counts:
    matrix_flop, tf32 = _matrix_flop(name, suffix), "TF32" in suffix
    return Counts(
        instructions=1,
        half_flop=0 if tf32 else matrix_flop,
        tf32_flop=matrix_flop if tf32 else 0,
        cuda_flop=_LANES * _CUDA_FLOP.get(name, 0),
        loads=waits,
        barriers=name == "BAR",
    )


def _matrix_flop(name: str, suffix: str) -> float:
    """Operations of HGMMA.64x128x16, which four warps share, or of HMMA.16816: 16 x 8 x 16."""
    if name == "HGMMA" and (sides := re.match(r"\.(\d+)x(\d+)x(\d+)", suffix)):
        return 2 * int(sides[1]) * int(sides[2]) * int(sides[3]) / _WARPGROUP
    if name == "HMMA" and (depth := re.match(r"\.168(\d+)", suffix)):
        return 2 * 16 * 8 * int(depth[1])
    return 0
