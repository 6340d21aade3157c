"""The sizes along each axis, and how a row says them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..apart.job import Job, Sizes
from ..rows import Row

OP = "growth by "
_SHAPE = re.compile(
    r"(?P<batch>\d+)x(?P<height>\d+)x(?P<width>\d+)px"
    r"(?:, (?P<channels>\d+) channels, (?P<blocks>\d+) blocks|, (?P<classes>\d+) classes)"
)


@dataclass(frozen=True)
class Ladder:
    """The sizes that all axes begin at, and the steps of each axis; of pixels the edge of a square image."""

    base: Sizes
    steps: Mapping[str, Sequence[int]]

    def sizes(self, axis: str) -> list[Sizes]:
        """The sizes along an axis."""
        if axis == "pixels":
            return [replace(self.base, height_px=edge, width_px=edge) for edge in self.steps[axis]]
        return [replace(self.base, **{axis: step}) for step in self.steps[axis]]  # type: ignore[arg-type]


ARCHITECTURE = "dyhead_atss_resnet10t"
FULL = Ladder(
    Sizes(256, 256, channels=128, blocks=2, architecture=ARCHITECTURE),
    {
        "pixels": (128, 192, 256, 384, 512),
        "batch": (1, 2, 4, 8),
        "channels": (32, 64, 128, 256, 512),
        "blocks": (1, 2, 4, 8),
        "classes": (20, 80, 320, 1280),
    },
)
SMALL = Ladder(
    Sizes(64, 64, channels=16, blocks=1, architecture=ARCHITECTURE),
    {"pixels": (64, 128), "batch": (1, 2), "channels": (16, 32), "blocks": (1, 2), "classes": (2, 8)},
)


@dataclass(frozen=True)
class Theory:
    """Exponents that a quantity tends to as one size grows and the others stay.

    Attributes:
        memory_forward, memory_training: only a training step keeps what every block has computed.
    """

    time: int
    memory_forward: int
    memory_training: int

    def memory(self, pass_: str) -> int:
        """The exponent of one pass."""
        return self.memory_forward if pass_ == "forward" else self.memory_training


# A block's products take C x C weights, its maps C channels. The layer of classes is one of many of a detector: far
# below the sizes where it outweighs the others the exponent is far below one.
THEORY = {
    "pixels": Theory(1, 1, 1),
    "batch": Theory(1, 1, 1),
    "channels": Theory(2, 1, 1),
    "blocks": Theory(1, 0, 1),
    "classes": Theory(1, 1, 1),
}


def case_of(axis: str) -> str:
    """The case that grows along an axis."""
    return "detector" if axis == "classes" else "head"


def as_growth(job: Job, row: Row, axis: str) -> Row:
    """The row of a job with all that can grow in its shape."""
    sizes = job.sizes
    model = f"{sizes.classes} classes" if axis == "classes" else f"{sizes.channels} channels, {sizes.blocks} blocks"
    return replace(row, op=f"{OP}{axis}", shape=f"{row.shape}, {model}")


def axis_of(row: Row) -> str | None:
    """The axis that a row belongs to; None for those of other commands."""
    return row.op.removeprefix(OP) if row.op.startswith(OP) and size_of(row) is not None else None


def size_of(row: Row) -> int | None:
    """How far along its axis a row is; of pixels, those of the image."""
    found, axis = _SHAPE.fullmatch(row.shape), row.op.removeprefix(OP)
    if not found:
        return None
    if axis == "pixels":
        return int(found["height"]) * int(found["width"])
    text = found.groupdict().get(axis)
    return None if text is None else int(text)
