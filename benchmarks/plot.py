"""A PNG of measured rows: grouped bars on a logarithmic scale."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from dyzoo.files import replacing

from .providers import PROVIDERS
from .report import Group, baseline_ms, digits, groups, machine_line
from .rows import Row

# A family's variants are shades: ours blue, the official way orange to red, deformops green, the floor grey.
COLORS = {
    "ours": "#1f5fa8",
    "ours-optimized": "#12437d",
    "ours-graph": "#0b2f5c",
    "ours-compiled": "#6ea6de",
    "ours-reduce-overhead": "#3f86cf",
    "reference": "#8d7bb8",
    "official-float32": "#f5c26b",
    "official": "#f29e4c",
    "official-float16": "#e2711d",
    "official-compiled": "#c1440e",
    "official-max-autotune": "#7a1f0a",
    "deformops": "#3a9d5d",
    "deformops-compiled": "#1c6b3c",
    "mmcv": "#b5579b",
    "dense": "#9aa0a6",
    "onnxruntime": "#5f6b73",
    "torchvision FCOS, ResNet-50": "#c9b79c",
    "torchvision RetinaNet, ResNet-50": "#8a7350",
}
FORMER_NAMES = {
    "dyhead_kernels reference": "reference",
    "torchvision": "official-float32",
    "torchvision, step by step": "official-float32",
    "dense conv2d (floor)": "dense",
    "dense convolutions (floor)": "dense",
}
BAR_INCHES, PANEL_INCHES, WIDEST_INCHES, NARROWEST_INCHES, MARGIN_INCHES = 0.31, 3.4, 20.0, 7.5, 1.2
GAP, LEAST_BARS = 1.2, 4
"""Between groups, and what a group takes at least, for its label: in bars."""


def save_plot(rows: Sequence[Row], path: Path) -> None:
    """Median times, the 20th and 80th percentile as whiskers, one row of panels for each pass.

    Args:
        rows: the rows of one device, only one for each key (see `rows.latest`).
        path: PNG file, written aside and renamed.

    Raises:
        ValueError: no rows of a case.
    """
    found = groups(rows)
    if not found:
        raise ValueError("there is no row to plot: measure something first")
    names = sorted({row.provider for members in found.values() for row in members}, key=_place)
    legend = {_label(name): _color(name) for name in names}
    lines = _lines(found)
    inches = max(map(_inches, (part for _, part in lines)))
    width = min(max(inches + MARGIN_INCHES, NARROWEST_INCHES), WIDEST_INCHES)
    figure = Figure(figsize=(width, PANEL_INCHES * len(lines) + 1.4), layout="constrained")
    panels: Sequence[Axes] = list(figure.subplots(len(lines), 1, squeeze=False)[:, 0])
    for axes, (pass_, part) in zip(panels, lines, strict=True):
        _draw(axes, part, inches)
        axes.set_ylabel(f"{pass_}, ms", fontsize=11)
    panels[0].set_title(_small_print(rows, width), fontsize=9, color="0.35")
    figure.suptitle(_title(rows[-1]), fontsize=13)
    figure.legend(
        handles=[Patch(color=color, label=label) for label, color in legend.items()],
        loc="outside lower center",
        ncols=max(1, min(len(legend), int(width // 3))),
        frameon=False,
        fontsize=9,
    )
    with replacing(path) as aside:
        figure.savefig(aside, format="png", dpi=130)


def _title(row: Row) -> str:
    threads = "" if row.peak_mib is not None or row.load else f", {row.threads} thread{'s' * (row.threads > 1)}"
    versions = f"torch {row.torch}" + (f", triton {row.triton}" if row.triton else "")
    return f"{row.device}{threads}  ·  {versions}"


def _small_print(rows: Sequence[Row], width: float) -> str:
    said = "Median time (whiskers: 20th and 80th percentile), and how many times as fast as torchvision in float32. "
    return textwrap.fill(said + machine_line(rows), int(width * 15))


def _lines(found: dict[Group, list[Row]]) -> list[tuple[str, list[list[Row]]]]:
    """(pass, groups) for each line of panels: sizes stay together, and lines are filled as far as they fit."""
    sizes: dict[tuple[str, str, str], list[list[Row]]] = {}
    for (_, pass_, shape, dtype, _), members in found.items():
        sizes.setdefault((pass_, dtype, shape), []).append(members)
    lines: list[tuple[str, list[list[Row]]]] = []
    for (pass_, _, _), part in sorted(sizes.items(), key=lambda item: item[0][0]):
        if lines and lines[-1][0] == pass_ and _inches([*lines[-1][1], *part]) <= WIDEST_INCHES - MARGIN_INCHES:
            lines[-1][1].extend(part)
        else:
            lines.append((pass_, part))
    return lines


def _inches(part: Sequence[Sequence[Row]]) -> float:
    return BAR_INCHES * sum(map(_bars, part))


def _bars(members: Sequence[Row]) -> float:
    return max(len(members), LEAST_BARS) + GAP


def _draw(axes: Axes, part: Sequence[Sequence[Row]], inches: float) -> None:
    left = 0.0
    ticks, labels = [], []
    for members in part:
        against = baseline_ms(members)
        ordered = sorted(members, key=lambda row: _place(row.provider))
        first_bar = left + (_bars(members) - GAP - len(ordered)) / 2
        for index, row in enumerate(ordered):
            below, above = max(row.p50_ms - row.p20_ms, 0), max(row.p80_ms - row.p50_ms, 0)
            axes.bar(
                first_bar + index,
                row.p50_ms,
                width=0.86,
                color=_color(row.provider),
                yerr=[[below], [above]],
                error_kw={"ecolor": "0.25", "elinewidth": 1, "capsize": 2},
                zorder=2,
            )
            faster = f"  {against / row.p50_ms:.1f}x" if against and row.p50_ms != against else ""
            axes.annotate(
                f"{digits(row.p50_ms)}{faster}",
                (first_bar + index, row.p80_ms),
                xytext=(0, 4),
                textcoords="offset points",
                rotation=90,
                ha="center",
                va="bottom",
                fontsize=8,
                color="0.15",
            )
        first = members[0]
        ticks.append(first_bar + (len(ordered) - 1) / 2)
        labels.append("\n".join(filter(None, (first.op, first.shape, first.dtype, *first.conditions.split(", ")))))
        left += _bars(members)
    axes.set_yscale("log")
    values = [row.p50_ms for members in part for row in members]
    axes.set_ylim(min(values) / 2.5, max(row.p80_ms for members in part for row in members) * 8)
    axes.set_xlim(-1.1, inches / BAR_INCHES - 1.1)
    axes.set_xticks(ticks, labels)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(axis="y", alpha=0.3, zorder=0)
    axes.tick_params(axis="x", length=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _key(name: str) -> str | None:
    """The provider that gives itself this name in some dtype, or did."""
    for provider in PROVIDERS.values():
        start, placeholder, end = provider.label.partition("{dtype}")
        if name == start or (placeholder and name.startswith(start) and name.endswith(end)):
            return provider.key
    return FORMER_NAMES.get(name)


def _place(name: str) -> tuple[int, str]:
    """Sorts names in the order of the providers."""
    key = _key(name)
    return (len(PROVIDERS) if key is None else list(PROVIDERS).index(key)), name


def _label(name: str) -> str:
    """The name in the legend, the same for all dtypes."""
    key = _key(name)
    return name if key is None else PROVIDERS[key].label.format(dtype="half precision")


def _color(name: str) -> str:
    return COLORS.get(_key(name) or name, "#d4d8db")
