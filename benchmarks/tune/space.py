"""Launch parameters to try for each kernel of the default table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

Parameters = dict[str, int]
Axes = Mapping[str, Sequence[int | None]]

MOST_SUMS = 128
"""Float32 sums that a thread can hold in registers beside everything else: half of the 255 there are."""
WARP = 32


@dataclass(frozen=True)
class Space:
    """Combinations of launch parameters; None leaves a parameter out.

    Attributes:
        axes: every combination is tried, with the default's values of all other parameters.
        later: combinations tried with the few best of those.
        favoured: what the time model expects most of: tried first, in case time runs out.
        sums: the blocks whose product is the number of sums that a program holds, to leave out what cannot fit.
        every_dtype: the kernel works on float32 whatever the maps are, so there is one entry, "any".
    """

    axes: Axes
    later: Axes = field(default_factory=dict)
    sums: tuple[str, ...] = ()
    favoured: Sequence[Parameters] = ()
    every_dtype: bool = False


WIDE: Sequence[Parameters] = (
    {"BLOCK_P": 128, "BLOCK_C": 32, "num_warps": 16, "num_stages": 3},
    {"BLOCK_P": 128, "BLOCK_C": 32, "num_warps": 8},
)
"""Twice the positions of a program: half the weights through the L2 cache, without a spill."""

TILES: Axes = {"TILE_W": (4, 8, 16, 32)}

SPACES: dict[str, Space] = {
    "offsets_forward": Space(
        {"BLOCK_P": (32, 64, 128), "BLOCK_C": (32, 64, 128), "num_warps": (4, 8), "num_stages": (1, 2, 3)},
        {**TILES, "maxnreg": (None, 128)},
    ),
    "deform_conv_forward": Space(
        {
            "BLOCK_P": (64, 128),
            "BLOCK_C": (16, 32, 64, 128),
            "BLOCK_O": (128, 256),
            "num_warps": (4, 8, 16),
            "num_stages": (1, 2, 3),
        },
        {"TILE_W": (8, 16), "maxnreg": (None, 128)},
        sums=("BLOCK_P", "BLOCK_O"),
        favoured=WIDE,
    ),
    "attention_moments": Space(
        {"BLOCK_T": (8, 16, 32, 64), "BLOCK_C": (32, 64, 128), "num_warps": (2, 4, 8)}, every_dtype=True
    ),
    "attention_forward": Space({"MATRIX_ROWS": (16, 32, 64, 128), "num_warps": (4, 8, 16)}, every_dtype=True),
    "mix_forward": Space({"BLOCK_P": (8, 16, 32, 64), "BLOCK_C": (64, 128, 256), "num_warps": (2, 4, 8)}, TILES),
    "mix_backward": Space({"BLOCK_P": (16, 32, 64), "BLOCK_C": (32, 64, 128), "num_warps": (2, 4, 8)}, TILES),
    "attention_sums": Space(
        {"BLOCK_T": (8, 16, 32, 64), "BLOCK_C": (64, 128, 256), "num_warps": (2, 4, 8)}, every_dtype=True
    ),
    "attention_backward": Space({"MATRIX_ROWS": (16, 32, 64), "num_warps": (4, 8, 16)}, every_dtype=True),
    "mix_branches_backward": Space({"BLOCK_P": (8, 16, 32), "BLOCK_C": (64, 128, 256), "num_warps": (2, 4, 8)}, TILES),
    "deform_conv_backward": Space(
        {
            "BLOCK_P": (32, 64, 128),
            "BLOCK_C": (16, 32, 64),
            "BLOCK_O": (32, 64, 128, 256),
            "num_warps": (4, 8, 16),
            "num_stages": (1, 2),
        },
        {"TILE_W": (8, 16), "maxnreg": (None, 128)},
        sums=("BLOCK_P", "BLOCK_C"),
        favoured=({"BLOCK_P": 128, "BLOCK_C": 16, "BLOCK_O": 256, "num_warps": 16, "num_stages": 2},),
    ),
    "deform_conv_backward_fixed_point": Space(
        {"BLOCK_P": (32, 64), "BLOCK_C": (16, 32), "BLOCK_O": (32, 64, 256), "num_warps": (4, 8), "num_stages": (1, 2)},
        {"TILE_W": (8, 16), "maxnreg": (None, 128)},
        sums=("BLOCK_P", "BLOCK_C"),
    ),
    "deform_conv_window_backward": Space(
        {
            "BLOCK_P": (32, 64),
            "BLOCK_C": (32, 64, 128),
            "BLOCK_O": (32, 64, 128, 256),
            "num_warps": (4, 8, 16),
            "num_stages": (1, 2, 3),
        },
        {"WINDOWED": (0, 1), "WINDOW_W": (16, 32), "maxnreg": (None, 128, 255)},
        sums=("WINDOW_H", "WINDOW_W", "BLOCK_C"),
    ),
    "deform_conv_window_backward_fixed_point": Space(
        {
            "BLOCK_P": (32, 64),
            "BLOCK_C": (16, 32, 64),
            "BLOCK_O": (32, 64, 128),
            "num_warps": (4, 8),
            "num_stages": (1, 2),
        },
        {"WINDOWED": (0, 1), "maxnreg": (None, 128, 255)},
        sums=("WINDOW_H", "WINDOW_W", "BLOCK_C"),
    ),
    "deform_conv_weight_backward": Space(
        {
            "BLOCK_P": (32, 64),
            "BLOCK_C": (32, 64, 128),
            "BLOCK_O": (64, 128, 256),
            "num_warps": (4, 8, 16),
            "num_stages": (1, 2, 3),
        },
        {"TILE_W": (8, 16), "maxnreg": (None, 128)},
        sums=("BLOCK_C", "BLOCK_O"),
    ),
    "offsets_pointwise": Space({"BLOCK_P": (16, 32, 64, 128), "num_warps": (2, 4, 8)}, TILES, every_dtype=True),
    "offsets_values_backward": Space(
        {
            "BLOCK_P": (32, 64, 128),
            "BLOCK_O": (16, 32, 64),
            "BLOCK_C": (64, 128, 256),
            "num_warps": (4, 8),
            "num_stages": (1, 2),
        },
        sums=("BLOCK_P", "BLOCK_C"),
    ),
    "offsets_weight_backward": Space(
        {
            "BLOCK_P": (16, 32, 64),
            "BLOCK_O": (64, 128),
            "BLOCK_C": (64, 128, 256),
            "num_warps": (4, 8, 16),
            "num_stages": (1, 2, 3),
        },
        {"PARTS": (12, 16, 24, 31, 62), "maxnreg": (None, 128)},
        sums=("BLOCK_O", "BLOCK_C"),
    ),
}
"""Spaces in the order of tuning: what a kernel reads, and how it is cut into tiles, is settled before it."""


def first_candidates(space: Space, default: Parameters) -> list[Parameters]:
    """The default, what is favoured, then all combinations, those that differ least first: time may run out."""
    found = [default]
    combined = sorted(_combinations(space, space.axes, default), key=lambda candidate: differences(candidate, default))
    for candidate in [*({**default, **each} for each in space.favoured), *combined]:
        if candidate not in found:
            found.append(candidate)
    return found


def later_candidates(space: Space, best: Sequence[Parameters]) -> list[Parameters]:
    """Variations of the best."""
    found: list[Parameters] = []
    for start in best:
        for candidate in _combinations(space, space.later, start):
            if candidate not in found and candidate != start:
                found.append(candidate)
    return found


def differences(candidate: Parameters, other: Parameters) -> int:
    """Number of parameters that differ."""
    return sum(candidate.get(name) != other.get(name) for name in candidate.keys() | other.keys())


def _combinations(space: Space, axes: Axes, start: Parameters) -> Iterator[Parameters]:
    for values in product(*axes.values()):
        changed = {**start, **dict(zip(axes, values, strict=True))}
        candidate = {name: value for name, value in changed.items() if value is not None}
        sums = 1
        for name in space.sums:
            sums *= candidate[name]
        fits = not space.sums or sums <= MOST_SUMS * WARP * candidate["num_warps"]
        if fits and candidate.get("TILE_W", 1) <= candidate.get("BLOCK_P", 1 << 30):
            yield candidate
