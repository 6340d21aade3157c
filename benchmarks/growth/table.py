"""Fitted exponents as a Markdown table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ..rows import Row
from .points import THEORY, axis_of, size_of

Curve = tuple[str, str, int]
"""Axis, pass, threads."""


def curves(rows: Iterable[Row]) -> dict[Curve, list[Row]]:
    """Rows of each axis, pass and number of threads, smallest first."""
    found: dict[Curve, list[Row]] = {}
    for row in rows:
        axis = axis_of(row)
        if axis in THEORY:
            found.setdefault((axis, row.pass_, row.threads), []).append(row)
    return {curve: sorted(members, key=lambda row: size_of(row) or 0) for curve, members in found.items()}


def exponent(sizes: Sequence[float], values: Sequence[float | None]) -> float | None:
    """The slope of a line through logarithms, by least squares; None for fewer than two positive values."""
    pairs = [(size, value) for size, value in zip(sizes, values, strict=True) if value and value > 0]
    if len({size for size, _ in pairs}) < 2:
        return None
    x, y = np.log(pairs).T
    return float(np.polyfit(x, y, 1)[0])


def growth_table(rows: Iterable[Row]) -> str:
    """A line for each curve: the exponents of time and memory, measured and in theory."""
    lines = [
        "| grows | pass | threads | from..to | time n^ | operations n^ | in theory | memory n^ | in theory |",
        "|---|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    for (axis, pass_, threads), members in curves(rows).items():
        sizes = [size_of(row) or 0 for row in members]
        flop = [None if row.tflop_per_s is None else row.tflop_per_s * row.p50_ms for row in members]
        cells = [
            axis,
            pass_,
            str(threads),
            f"{sizes[0]}..{sizes[-1]}",
            _shown(exponent(sizes, [row.p50_ms for row in members])),
            _shown(exponent(sizes, flop)),
            str(THEORY[axis].time),
            _shown(exponent(sizes, [row.peak_mib for row in members])),
            str(THEORY[axis].memory(pass_)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{round(value, 2) + 0.0:.2f}"  # a negative zero is none
