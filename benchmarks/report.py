"""Rows as Markdown tables to read."""

from __future__ import annotations

from collections.abc import Sequence

from .machine import OP as MACHINE
from .predicted import Predictions, known, predicted_ms
from .providers import BASELINE
from .rows import Row
from .runner import Skipped

BASELINES = (BASELINE, "torchvision", "torchvision, step by step")
"""The official way, by the names it has had in the rows."""

Group = tuple[str, str, str, str, str]


def groups(rows: Sequence[Row]) -> dict[Group, list[Row]]:
    """Rows of one case, pass, shape, dtype and conditions together, those of the machine's peaks left out."""
    found: dict[Group, list[Row]] = {}
    for row in rows:
        if row.op != MACHINE:
            found.setdefault((row.op, row.pass_, row.shape, row.dtype, row.conditions), []).append(row)
    return found


def baseline_ms(rows: Sequence[Row]) -> float | None:
    """The official way's median among rows of one group."""
    return next((row.p50_ms for row in rows if row.provider in BASELINES), None)


def markdown(rows: Sequence[Row], skipped: Sequence[Skipped] = (), predictions: Predictions | None = None) -> str:
    """A table for each case, pass, shape and dtype, fastest first, then what was not timed and why.

    Args:
        predictions: times to hold rows against; None for those of `predicted.csv`.
    """
    expected = known() if predictions is None else predictions
    parts = [_table(group, members, expected) for group, members in groups(rows).items()]
    parts += [machine_line(rows)] if machine_line(rows) else []
    if skipped:
        parts.append(not_timed(skipped))
    return "\n\n".join(parts)


def not_timed(skipped: Sequence[Skipped]) -> str:
    """A list with a line for each provider and reason, and where it was so."""
    places: dict[tuple[str, str], list[str]] = {}
    for entry in skipped:
        place = " ".join((entry.op, entry.pass_, entry.shape, entry.dtype))
        places.setdefault((entry.provider, entry.reason), []).append(place)
    everywhere = len({(entry.op, entry.pass_, entry.shape, entry.dtype) for entry in skipped})
    lines = [
        f"- **{provider}**: {reason}" + ("" if len(where) == everywhere else f" ({'; '.join(where)})")
        for (provider, reason), where in places.items()
    ]
    return "\n".join(["Not timed:", "", *lines])


def machine_line(rows: Sequence[Row]) -> str:
    """The machine's measured peaks in one sentence; empty where they were not measured."""
    peaks = {}
    for row in rows:
        if row.op == MACHINE and row.tflop_per_s is not None:
            peaks[f"matrix product {row.dtype}"] = f"{digits(row.tflop_per_s)} TFLOP/s"
        elif row.op == MACHINE and row.gb_per_s is not None:
            peaks["copy"] = f"{row.gb_per_s:.0f} GB/s"
    return "This machine's peaks: " + ", ".join(f"{name} {rate}" for name, rate in peaks.items()) + "." if peaks else ""


def _table(group: Group, rows: Sequence[Row], predictions: Predictions) -> str:
    against = baseline_ms(rows)
    expected = {row: predicted_ms(row, predictions) for row in rows}
    has_model = any(expected.values())
    lines = [
        f"| {', '.join(filter(None, group))} | median ms | p20..p80 | times as fast | peak MiB | TFLOP/s | GB/s |"
        + (" predicted ms | measured / predicted |" if has_model else ""),
        "|---|---:|---:|---:|---:|---:|---:|" + ("---:|---:|" if has_model else ""),
    ]
    for row in sorted(rows, key=lambda row: row.p50_ms):
        cells = [
            row.provider,
            digits(row.p50_ms),
            f"{digits(row.p20_ms)}..{digits(row.p80_ms)}",
            "" if against is None else f"{against / row.p50_ms:.2f}",
            "" if row.peak_mib is None else f"{row.peak_mib:.0f}",
            "" if row.tflop_per_s is None else digits(row.tflop_per_s),
            "" if row.gb_per_s is None else digits(row.gb_per_s),
        ]
        if has_model:
            ms = expected[row]
            cells += ["", ""] if ms is None else [digits(ms), f"{row.p50_ms / ms:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def digits(value: float) -> str:
    """Three figures or more, no exponent."""
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3 if value >= 0.1 else 4
    return f"{value:.{decimals}f}"
