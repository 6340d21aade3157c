"""A PNG of one axis: time and memory on logarithmic scales, the fitted powers as lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from dyzoo.files import replacing

from ..plot import COLORS
from ..rows import Row
from .points import THEORY, size_of
from .table import Curve, exponent

COLOR_OF_PASS = {"forward": COLORS["ours"], "training step": COLORS["official-float16"]}
MOST_TICKS = 6


def save_growth_plot(axis: str, found: Mapping[Curve, Sequence[Row]], path: Path) -> None:
    """Draw the curves of one axis.

    Args:
        found: the curves of that axis only, rows smallest first.
        path: PNG file, written aside and renamed.
    """
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    row = next(iter(found.values()))[-1]
    figure.suptitle(f"{row.device}  ·  torch {row.torch}  ·  {row.shape} at most", fontsize=12)
    theory = THEORY[axis]
    _draw(left, axis, "median time, ms", found, lambda row: row.p50_ms, lambda pass_: theory.time)
    _draw(right, axis, "memory, MiB", found, lambda row: row.peak_mib, theory.memory)
    for curve, members in found.items():
        sizes = [size_of(row) or 0 for row in members]
        below = [max(row.p50_ms - row.p20_ms, 0) for row in members]
        above = [max(row.p80_ms - row.p50_ms, 0) for row in members]
        medians = [row.p50_ms for row in members]
        left.errorbar(sizes, medians, [below, above], fmt="none", ecolor=_color(curve), elinewidth=1, capsize=2)
    with replacing(path) as aside:
        figure.savefig(aside, format="png", dpi=130)


def _draw(
    axes: Axes,
    axis: str,
    title: str,
    found: Mapping[Curve, Sequence[Row]],
    value_of: Callable[[Row], float | None],
    theory: Callable[[str], int],
) -> None:
    ticks: set[int] = set()
    for curve, members in found.items():
        _, pass_, threads = curve
        sizes = [size_of(row) or 0 for row in members]
        values = [value_of(row) for row in members]
        pairs = [(size, value) for size, value in zip(sizes, values, strict=True) if value and value > 0]
        if not pairs:
            continue
        ticks |= {size for size, _ in pairs}
        slope = exponent(sizes, values)
        fitted = "" if slope is None else f": n^{slope:.2f}, in theory n^{theory(pass_)}"
        label = f"{pass_}, {threads} thread{'s' * (threads > 1)}{fitted}"
        axes.plot(*zip(*pairs, strict=True), "o", color=_color(curve), label=label)
        if slope is not None:
            middle = math.exp(sum(math.log(value) - slope * math.log(size) for size, value in pairs) / len(pairs))
            ends = [pairs[0][0], pairs[-1][0]]
            axes.plot(ends, [middle * size**slope for size in ends], "-", color=_color(curve), linewidth=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(axis)
    axes.set_title(title, fontsize=11)
    axes.xaxis.set_major_locator(FixedLocator(sorted(ticks)[:: max(1, len(ticks) // MOST_TICKS)]))
    axes.xaxis.set_minor_locator(NullLocator())
    for side in (axes.xaxis, axes.yaxis):
        side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value < 1e5 else f"{value / 1e3:.0f}k"))
    axes.grid(alpha=0.3)
    if ticks:
        axes.legend(frameon=False, fontsize=9)


def _color(curve: Curve) -> str:
    return COLOR_OF_PASS.get(curve[1], "#5f6b73")
