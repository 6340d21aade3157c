"""Operations and bytes that a case cannot do without: achieved TFLOP/s and GB/s are counted from them.

A training step is counted as three forward passes, in operations (the products of the forward pass, of the inputs'
gradient and of the weights' gradient) and in bytes (the backward pass reads and writes about twice as much).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dyhead_kernels.dyhead_block.parameters import OFFSETS_AND_MASKS, TAPS, parameter_shapes
from dyhead_kernels.flops import convolutions_flop

NORM_GROUPS = 16
TRAINING_FACTOR = 3

Shapes = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Work:
    """Operations (a multiplication and an addition are two) and bytes of a forward pass; None where not counted."""

    flop: float
    bytes: float | None

    def of(self, pass_: str) -> Work:
        """The work of "forward" or "training step"."""
        factor = 1 if pass_ == "forward" else TRAINING_FACTOR
        return Work(factor * self.flop, None if self.bytes is None else factor * self.bytes)


def level_shapes(height_px: int, width_px: int, levels: int = 5) -> tuple[tuple[int, int], ...]:
    """(H, W) of P3, P4, ...: strides 8, 16, ..., each level half of the one before, rounded up."""
    shapes = [(-(-height_px // 8), -(-width_px // 8))]
    while len(shapes) < levels:
        height, width = shapes[-1]
        shapes.append(((height + 1) // 2, (width + 1) // 2))
    return tuple(shapes)


def deform_conv_work(batch: int, shape: tuple[int, int], channels: int, value_bytes: int) -> Work:
    """One 3x3 convolution, C to C: map in, offsets and masks in, weights in, map out."""
    positions = batch * shape[0] * shape[1]
    values = positions * (2 * channels + OFFSETS_AND_MASKS) + TAPS * channels * channels
    return Work(2.0 * positions * TAPS * channels**2, float(values * value_bytes))


def blocks_work(batch: int, shapes: Shapes, channels: int, blocks: int, value_bytes: int) -> Work:
    """A stack of blocks whose levels and branches each go once through memory.

    Per block: the pyramid in and out, the branches' maps out and in again (their statistics stand between), offsets
    and masks out and in, the weights in. Branches `low` and `high` exist once between each two levels and live on the
    coarser one's grid.
    """
    sizes = [batch * height * width for height, width in shapes]
    positions, convolved = sum(sizes), sum(sizes) + 2 * sum(sizes[1:])
    weights = parameter_shapes(channels, channels, 1)
    flop = convolutions_flop(sizes, weights["offset_weight"], weights["conv_weight"])
    values = 2 * positions * channels + 2 * convolved * channels + 2 * positions * OFFSETS_AND_MASKS
    values += TAPS * channels * (3 * channels + OFFSETS_AND_MASKS)
    return Work(float(blocks * flop), float(blocks * values * value_bytes))
