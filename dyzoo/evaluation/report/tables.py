"""The numbers of the page: classes, confusions, sizes, kinds of false finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dyzoo.data import DetectionDataset
from dyzoo.data.tools.statistics import SIZE_LIMITS_PX
from dyzoo.evaluation import Evaluation
from dyzoo.evaluation.report.matching import Matches, Outcome

MOST_CLASSES = 16
"""Classes in the confusion matrix; of more, those with the most confusions are shown."""

_MOST_PAIRS = 10
_NEAR_IOU = 0.1  # below, a box has nothing to do with an object (Bolya et al., TIDE, ECCV 2020)


class ClassRow(NamedTuple):
    """One class; shares are None where they are not defined."""

    name: str
    boxes: int
    shares: dict[str, float | None]  # AP, AP50, AP75, precision, recall, f1


class Cell(NamedTuple):
    """A cell of the confusion matrix: how many, and the share of its row."""

    times: int
    share: float | None
    kind: str  # "right", "wrong" or "neutral"


class ConfusionTable(NamedTuple):
    """The confusion matrix as it is shown.

    Attributes:
        names: names of the classes shown, in the order of the data set; None stands for all others together.
        rows: (name, cells) for each of them and last the background, whose name is ""; the last column is "missed".
        left_out: classes that are merged into the others.
        pairs: the most frequent confusions of all classes: truth, prediction, how many, share of the truth's objects.
    """

    names: list[str | None]
    rows: list[tuple[str | None, list[Cell]]]
    left_out: int
    pairs: list[tuple[str, str, int, float]]


class SizeRow(NamedTuple):
    """Objects of one size and what became of them."""

    name: str
    limits: str
    objects: int
    right: int
    confused: int
    missed: int


def class_rows(dataset: DetectionDataset, evaluation: Evaluation, matches: Matches) -> list[ClassRow]:
    """All classes, those of the lowest AP first, those without objects last."""
    scores = matches.class_scores()
    rows = []
    for label, name in enumerate(dataset.labels):
        known = evaluation.per_class[name]
        values = {metric: known[metric] for metric in ("AP", "AP50", "AP75")}
        values |= {metric: _defined(each[label]) for metric, each in scores.items()}
        rows.append(ClassRow(name, int(known["boxes"] or 0), values))
    return sorted(rows, key=lambda row: (row.shares["AP"] is None, row.shares["AP"]))


def mean_row(rows: Sequence[ClassRow], evaluation: Evaluation) -> ClassRow:
    """The mean over the classes that have objects; AP as COCO averages it."""
    values = {metric: evaluation.metrics[metric] for metric in ("AP", "AP50", "AP75")}
    for metric in ("precision", "recall", "f1"):
        known = [value for row in rows if row.boxes and (value := row.shares[metric]) is not None]
        values[metric] = sum(known) / len(known) if known else None
    return ClassRow("", sum(row.boxes for row in rows), values)


def confusion_table(labels: Sequence[str], matches: Matches, most: int = MOST_CLASSES) -> ConfusionTable:
    """The matrix of all classes, or of the `most` classes that are most often taken for another or another for them."""
    confusion = matches.confusion()
    between = confusion[:-1, :-1] - np.diag(confusion.diagonal()[:-1])
    involved = between.sum(axis=0) + between.sum(axis=1)
    others = confusion[-1, :-1] + confusion[:-1, -1]
    shown = np.sort(np.lexsort((-others, -involved))[:most])
    groups = [[label] for label in shown.tolist()]
    names: list[str | None] = [labels[label] for label in shown]
    if rest := sorted(set(range(len(labels))) - set(shown.tolist())):
        groups.append(rest)
        names.append(None)
    groups.append([len(labels)])
    counts = np.array([[confusion[np.ix_(row, column)].sum() for column in groups] for row in groups])
    totals = counts.sum(axis=1)
    rows = [
        (
            name,
            [
                Cell(
                    int(count),
                    float(count / totals[i]) if totals[i] else None,
                    "neutral" if name is None and i == j else "right" if i == j else "wrong",
                )
                for j, count in enumerate(counts[i])
            ],
        )
        for i, name in enumerate([*names, ""])
    ]
    order = np.argsort(-between, axis=None, kind="stable")[:_MOST_PAIRS]
    pairs = [
        (labels[i], labels[j], int(between[i, j]), float(between[i, j] / confusion[i].sum()))
        for i, j in zip(*np.unravel_index(order, between.shape), strict=True)
        if between[i, j]
    ]
    return ConfusionTable(names, rows, len(rest), pairs)


def size_rows(matches: Matches) -> list[SizeRow]:
    """Objects by COCO's classes of size: the area of the box in pixels of the image."""
    areas = matches.objects.boxes_xywh[:, 2:].prod(axis=1)
    bounds = [0.0, *(side**2 for side in SIZE_LIMITS_PX.values()), np.inf]
    limits = [f"under {side}² px" for side in SIZE_LIMITS_PX.values()]
    words = [*limits, f"from {max(SIZE_LIMITS_PX.values())}² px"]
    rows = []
    for name, word, low, high in zip([*SIZE_LIMITS_PX, "large"], words, bounds, bounds[1:], strict=False):
        outcomes = matches.outcome_of_object[(areas >= low) & (areas < high)]
        right, confused, missed = (
            int((outcomes == outcome).sum()) for outcome in (Outcome.RIGHT, Outcome.CONFUSED, Outcome.UNMATCHED)
        )
        rows.append(SizeRow(name, word, right + confused + missed, right, confused, missed))
    return rows


def false_find_kinds(matches: Matches) -> dict[str, int]:
    """Number of false finds of each kind, told apart by their IoU with the objects of the image."""
    false = matches.outcome_of_find == Outcome.UNMATCHED
    own, nearest = matches.nearest_own_iou[false], matches.nearest_iou[false]
    doubled = own >= 0.5
    renamed = ~doubled & (nearest >= 0.5)
    beside = ~doubled & ~renamed & (nearest >= _NEAR_IOU)
    return {
        "a second box on an object that is already found (IoU from 0.5)": int(doubled.sum()),
        "a second box under another name on an object that is already found (IoU from 0.5)": int(renamed.sum()),
        "beside an object, badly placed (IoU 0.1 to 0.5)": int(beside.sum()),
        "on the background (IoU under 0.1)": int((~doubled & ~renamed & ~beside).sum()),
    }


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
