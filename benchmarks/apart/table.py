"""Rows under loads as one Markdown table: each against ours and against the floor."""

from __future__ import annotations

from collections.abc import Sequence

from ..precision import PRECISIONS
from ..providers import PROVIDERS
from ..report import digits, groups
from ..rows import Row


def cpu_table(rows: Sequence[Row]) -> str:
    """A line for each row that has a load, those that are measured beside each other together, fastest first.

    A ratio is the row's median over that of ours, or of the floor: above one is slower.
    """
    lines = [
        "| case | pass | threads | load | computed by | median ms | p20..p80 | / ours | / floor | peak MiB |",
        "|---|---|---:|---|---|---:|---:|---:|---:|---:|",
    ]
    for members in groups([row for row in rows if row.load]).values():
        ours, floor = (_median(members, key) for key in ("ours", "dense"))
        for row in sorted(members, key=lambda row: row.p50_ms):
            cells = [
                f"{row.op}, {row.shape}",
                row.pass_,
                str(row.threads),
                row.load,
                row.provider,
                digits(row.p50_ms),
                f"{digits(row.p20_ms)}..{digits(row.p80_ms)}",
                *("" if against is None else f"{row.p50_ms / against:.2f}" for against in (ours, floor)),
                "" if row.peak_mib is None else f"{row.peak_mib:.0f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _median(rows: Sequence[Row], key: str) -> float | None:
    names = {PROVIDERS[key].name(precision) for precision in PRECISIONS.values()}
    return next((row.p50_ms for row in rows if row.provider in names), None)
