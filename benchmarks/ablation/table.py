"""Both tables of the paper with our numbers beside its own, as Markdown, and what the seeds let them say."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from statistics import fmean, stdev

from dyzoo.config.training import ATTENTIONS

from . import paper
from .plan import Configuration
from .rows import Row

WITHIN_CHANCE = 2.0
"""Standard errors below which a difference is told from none."""
SHARED = ("epochs", "batch_size", "size_px", "data", "backbone_start", "dyzoo", "torch", "device")
"""Columns that have to be the same for all rows of a table."""

Found = Mapping[Configuration, Sequence[Row]]


def tables(rows: Sequence[Row], blocks: int, depths: Iterable[int]) -> str:
    """The page of an ablation: what was trained, both tables, and how far they reach.

    Args:
        rows: complete runs, one or more.
        blocks: those of the table of attentions.
        depths: those of the table of depths.
    """
    found: dict[Configuration, list[Row]] = {}
    for row in rows:
        found.setdefault(Configuration(row.blocks, row.scale, row.spatial, row.task), []).append(row)
    return "\n\n".join(
        filter(
            None,
            [
                _what(rows),
                _differing(rows),
                _table("attentions", found, _attention_rows(blocks), blocks),
                _effects(found, blocks),
                _table("blocks", found, _depth_rows(depths), blocks),
                _chance(found),
                f"The paper's numbers are of COCO: {paper.SOURCE}. Its baseline has towers of convolutions in the "
                "place of the blocks; without blocks there is nothing in their place here.",
            ],
        )
    )


def scatter(found: Found) -> float | None:
    """Standard deviation of AP between runs that differ in the seed alone, pooled over all configurations."""
    values = [[row.ap for row in rows if row.ap is not None] for rows in found.values()]
    freedom = sum(max(len(each) - 1, 0) for each in values)
    if not freedom:
        return None
    return math.sqrt(sum((len(each) - 1) * stdev(each) ** 2 for each in values if len(each) > 1) / freedom)


def difference(rows: Sequence[Row], base: Sequence[Row]) -> tuple[float, float | None] | None:
    """Mean AP less that of the base, and its standard error; None where one of the two has no AP."""
    ours, theirs = ([row.ap for row in each if row.ap is not None] for each in (rows, base))
    if not ours or not theirs:
        return None
    if len(ours) < 2 or len(theirs) < 2:
        return fmean(ours) - fmean(theirs), None
    return fmean(ours) - fmean(theirs), math.sqrt(sum(stdev(each) ** 2 / len(each) for each in (ours, theirs)))


def effects(found: Found, blocks: int) -> dict[str, list[float]]:
    """For each attention what it adds to the mean AP, for each choice of the other two that has both runs."""
    added: dict[str, list[float]] = {name: [] for name in ATTENTIONS}
    for name, switches in product(ATTENTIONS, paper.ATTENTIONS):
        without = Configuration(blocks, *switches)
        if not getattr(without, name):
            with_it = replace(without, **{name: True})
            if apart := difference(found.get(with_it, []), found.get(without, [])):
                added[name].append(apart[0])
    return added


def _effects(found: Found, blocks: int) -> str:
    """A line on each attention by itself, the rows with it against those without; empty where there are no pairs."""
    shown = [
        f"{name} {fmean(values):+.1f} ± {stdev(values) / math.sqrt(len(values)):.1f} ({len(values)} pairs)"
        for name, values in effects(found, blocks).items()
        if len(values) > 1
    ]
    if not shown:
        return ""
    what = "What each attention adds, as the mean over the pairs of rows that differ in it alone ± its standard error"
    return f"{what}: {', '.join(shown)}."


def _attention_rows(blocks: int) -> dict[Configuration, float | None]:
    """The rows of the first table with the paper's AP; blocks without attention are not in the paper."""
    rows: dict[Configuration, float | None] = {Configuration(0): paper.DEPTHS[0]}
    for switches, ap in paper.ATTENTIONS.items():
        rows[Configuration(blocks, *switches)] = ap if any(switches) else None
    return rows


def _depth_rows(depths: Iterable[int]) -> dict[Configuration, float | None]:
    return {Configuration(depth): paper.DEPTHS.get(depth) for depth in sorted({0, *depths})}


def _table(kind: str, found: Found, rows: Mapping[Configuration, float | None], blocks: int) -> str:
    labels: dict[str, Callable[[Configuration], list[str]]] = {
        "attentions": lambda own: (
            ["none"] * 3 + ["0"]
            if not own.blocks
            else [*("yes" if on else "-" for on in (own.scale, own.spatial, own.task)), str(own.blocks)]
        ),
        "blocks": lambda own: [str(own.blocks)],
    }
    heads = {"attentions": ["scale", "spatial", "task", "blocks"], "blocks": ["blocks"]}[kind]
    heads += ["AP", "runs", "to no blocks", "to all three", "parameters", "paper's AP", "to its baseline"]
    if kind == "blocks":
        heads[heads.index("to all three")] = f"to {blocks} blocks"
    lines = [f"| {' | '.join(heads)} |", "|" + "---:|" * len(heads)]
    none, all_three = (found.get(Configuration(number), []) for number in (0, blocks))
    for own, published in rows.items():
        members = found.get(own, [])
        cells = [*labels[kind](own), _mean(members), str(len(members))]
        cells += ["" if members is base else _difference(members, base) for base in (none, all_three)]
        cells += [f"{members[0].parameters:,}" if members else ""]
        cells += ["", ""] if published is None else [f"{published:.1f}", f"{published - paper.DEPTHS[0]:+.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(rows: Sequence[Row]) -> str:
    values = [row.ap for row in rows if row.ap is not None]
    if not values:
        return ""
    return f"{fmean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def _difference(rows: Sequence[Row], base: Sequence[Row]) -> str:
    found = difference(rows, base)
    if found is None:
        return ""
    value, error = found
    return f"{value:+.1f}" + ("" if error is None else f" ± {error:.1f}")


def _what(rows: Sequence[Row]) -> str:
    row = rows[0]
    seeds = ", ".join(map(str, sorted({row.seed for row in rows})))
    return (
        f"{row.model}, {row.form} form, {row.backbone} ({row.backbone_start}); {row.train_images} pictures to learn "
        f"from, {row.val_images} to judge by; {row.epochs} epochs in batches of {row.batch_size}, shortest edge "
        f"{row.size_px} px; seeds {seeds}; {row.device}, torch {row.torch}, dyzoo {row.dyzoo}. AP in percent of the "
        "averaged weights after the last epoch, judged once: mean ± standard deviation over the runs; differences ± "
        "their standard error."
    )


def _differing(rows: Sequence[Row]) -> str:
    """A line on settings that are not the same for all rows; empty if all are."""
    values = {name: sorted({str(getattr(row, name)) for row in rows}) for name in SHARED}
    parts = [f"{name} ({', '.join(each)})" for name, each in values.items() if len(each) > 1]
    return f"**Not the same for all runs, which makes them hard to compare: {'; '.join(parts)}.**" if parts else ""


def _chance(found: Found) -> str:
    deviation = scatter(found)
    if deviation is None:
        return "With one run of each nothing says how much of a difference is chance: give more --seeds."
    fewest = min(len(rows) for rows in found.values())
    least = WITHIN_CHANCE * deviation * math.sqrt(2 / fewest)
    return (
        f"Runs that differ in their seed alone deviate by {deviation:.2f} AP (pooled over all rows). With {fewest} of "
        f"each, means that are less than {least:.1f} apart are within {WITHIN_CHANCE:g} standard errors: no difference "
        "is shown by them."
    )
