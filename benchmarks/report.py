"""Rows as CSV to keep, and as a Markdown table to read."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import asdict, fields
from itertools import groupby
from pathlib import Path

from benchmarks.runner import Row

RESULTS = Path(__file__).parent / "results"


def append(rows: Sequence[Row], folder: Path = RESULTS) -> Path:
    """Append to `<device>.csv` and give its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (re.sub(r"[^a-z0-9]+", "-", rows[0].device.lower()).strip("-") + ".csv")
    is_new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(field.name.rstrip("_") for field in fields(Row))
        for row in rows:
            writer.writerow("" if value is None else value for value in asdict(row).values())
    return path


def markdown(rows: Sequence[Row], baselines: dict[str, str]) -> str:
    """One table per operator and pass; `baselines` names the provider that each operator is compared with."""
    tables = []
    for (op, pass_, shape), group in groupby(rows, key=lambda row: (row.op, row.pass_, row.shape)):
        members = list(group)
        (baseline_ms,) = (row.p50_ms for row in members if row.provider == baselines[op])
        lines = [f"| {op}, {shape}, {pass_} | median ms | p20..p80 | times as fast |", "|---|---:|---:|---:|"]
        lines += [
            f"| {row.provider} | {row.p50_ms:.1f} | {row.p20_ms:.1f}..{row.p80_ms:.1f} | "
            f"{baseline_ms / row.p50_ms:.2f} |"
            for row in members
        ]
        tables.append("\n".join(lines))
    return "\n\n".join(tables)
