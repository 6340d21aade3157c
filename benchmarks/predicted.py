"""Predictions of the kernels' time model as rows, to hold measured ones against: `predicted.csv`.

The device of such a row is the card's short name; `python -m benchmarks predict` writes them again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from dyhead_kernels.static.cards import card_of

from dyzoo.errors import DyzooError

from .cases.case import BLOCKS, CHANNELS
from .machine import machine
from .rows import Machine, Row, read, write
from .timing import Percentiles

KEPT = Path(__file__).with_name("predicted.csv")
SHAPE = "1x800x1344px"
OURS = "dyhead_kernels"
LAUNCH = "launch"
"""The case of a single launch of a block, whose providers are the kernels."""

Predictions = Mapping[tuple[str, ...], float]
"""Milliseconds by card, case, pass, shape, dtype and provider."""


class PredictError(DyzooError, RuntimeError):
    """Predictions that cannot be made."""


def predict(cards: Sequence[str], dtypes: Sequence[str], out: Path, workers: int | None) -> list[Row]:
    """Compile, count, and write the rows of every card and dtype.

    Raises:
        PredictError: the kernels cannot be compiled here.
    """
    command = [sys.executable, "-m", "dyhead_kernels.static", "--model", "--json", "--channels", str(CHANNELS)]
    command += ["--card", *cards, "--dtype", *dtypes, *(["--workers", str(workers)] if workers else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no word of why"])[-1]
        raise PredictError(f"the kernels cannot be compiled here: {reason}")
    rows = rows_of(map(json.loads, done.stdout.splitlines()))
    write(rows, out)
    return rows


def rows_of(predictions: Iterable[Mapping[str, Any]]) -> list[Row]:
    """A row of each launch, then the blocks and heads that they add up to."""
    where = machine(torch.device("cpu"))
    launches: list[Row] = []
    sums: dict[tuple[str, str], dict[str, float]] = {}
    for each in predictions:
        card, dtype, pass_, ms = each["card"], each["dtype"], each["pass_"], each["us"] / 1e3
        launches.append(_row(LAUNCH, pass_, dtype, each["launch"], ms, card, where))
        total = sums.setdefault((card, dtype), {"forward": 0.0, "training step": 0.0})
        total["training step"] += ms
        total["forward"] += ms if pass_ == "forward" else 0.0
    return launches + [
        _row(op, pass_, dtype, OURS, blocks * ms, card, where)
        for (card, dtype), total in sums.items()
        for op, blocks in (("block", 1), ("head", BLOCKS))
        for pass_, ms in total.items()
    ]


def _row(op: str, pass_: str, dtype: str, provider: str, ms: float, card: str, where: Machine) -> Row:
    here = replace(where, device=card, threads=0)
    return Row.of(op, pass_, SHAPE, dtype, provider, Percentiles(ms, ms, ms), None, here)


def known(path: Path = KEPT) -> Predictions:
    """The predictions of a file; none where there is none.

    Raises:
        ResultsError: it is no file of rows.
    """
    return {(row.device, *row.key): row.p50_ms for row in (read(path) if path.is_file() else [])}


def predicted_ms(row: Row, predictions: Predictions) -> float | None:
    """The prediction for a measured row; None for others' ways, and where nothing was predicted."""
    card = card_of(row.device)
    provider = OURS if row.op != LAUNCH and row.provider.startswith(OURS) else row.provider
    return predictions.get((card, row.op, row.pass_, row.shape, row.dtype, provider)) if card else None
