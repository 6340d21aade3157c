"""`write_report`: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dyzoo.data import DetectionDataset
from dyzoo.evaluation import PR_IOUS, RECALLS, Comparison, Evaluation
from dyzoo.evaluation.plots import LEGEND_LIMIT, line_color, precision_recall_panels, training_panels
from dyzoo.evaluation.report import gallery, settings, tables
from dyzoo.evaluation.report.matching import Matcher
from dyzoo.evaluation.report.text import number, plain
from dyzoo.files import write_text

REPORT_NAME = "report.html"
"""The usual name of the page's file."""

THRESHOLDS_NAME = "thresholds.json"
"""The file beside the page with the suggested score thresholds: "threshold" for all classes, "per_class" by name."""

NUM_WORST = 12
"""Images in the page."""

FALLBACK_THRESHOLD = 0.3
"""Threshold where no score is better than another: the default of `Detector.predict`."""

_INKS = {"light": "#27313b", "dark": "#d5dde5"}  # of figures on the page's two backgrounds
_MOST_NOTES = 12
_WEAKEST_NAMED = 5  # curves with a colour where there are too many classes to name all


class _Figure(NamedTuple):
    """One picture in both themes, as `data:` addresses."""

    title: str
    light: str
    dark: str


def write_report(
    path: Path,
    dataset: DetectionDataset,
    evaluation: Evaluation,
    *,
    title: str,
    rows: Sequence[Mapping[str, float | None]] = (),
    record: Mapping[str, Any] | None = None,
    comparison: Comparison | None = None,
) -> None:
    """Write what a detector does well and where it fails as one HTML file, and beside it the thresholds it suggests.

    Styles and pictures are inside; there is no script, and nothing is fetched. The same input gives the same bytes with
    the same versions of matplotlib and Pillow. Images that cannot be read are named and do not matter further.

    Args:
        path: the file; written aside and renamed.
        dataset: the data evaluated on; the worst images are read again.
        evaluation: the result of `dyzoo.evaluate` on that data set.
        title: title of the page; names the detector and the data.
        rows: one for each epoch of the training, see `dyzoo.evaluation.plots.save_training_curves`.
        record: the content of the training's `run.json`.
        comparison: comparison with another detector, this evaluation's being the first.
    """
    matcher = Matcher(dataset, evaluation.detections)
    best = matcher.best_threshold()
    threshold = FALLBACK_THRESHOLD if best is None else best.score
    matches = matcher.at(threshold)
    classes = tables.class_rows(dataset, evaluation, matches)
    exhibits, unreadable = gallery.worst_images(dataset, matches, NUM_WORST)
    best_row = _best_row(rows)
    notes = [*evaluation.notes, *dataset.notes]
    page = (
        page_environment(Path(__file__).parent)
        .get_template("report.html.j2")
        .render(
            title=title,
            name=settings.dataset_name(record),
            evaluation=evaluation,
            num_classes=len(dataset.labels),
            num_boxes=sum(row.boxes for row in classes),
            num_crowd=int(matches.objects.crowd.sum()),
            best_epoch=None if best_row is None else best_row["epoch"],
            num_epochs=len(rows),
            threshold=threshold,
            best=best,
            notes=[_without_folders(note, dataset) for note in notes[:_MOST_NOTES]],
            more_notes=max(len(notes) - _MOST_NOTES, 0),
            cost=[] if evaluation.cost is None else evaluation.cost.facts(),
            comparison=comparison,
            curves=_training_figures(rows, best_row),
            record=record,
            settings=settings,
            classes=classes,
            mean=tables.mean_row(classes, evaluation),
            confusion=tables.confusion_table(dataset.labels, matches),
            outcomes=matches.image_counts(),
            precision_recall=_precision_recall_figures(evaluation),
            curve_names=_curve_names(evaluation),
            exhibits=exhibits,
            unreadable=unreadable,
            num_wrong_images=len(gallery.rank_images(matches)),
            gallery=gallery,
            sizes=tables.size_rows(matches),
            false_finds=tables.false_find_kinds(matches),
        )
    )
    write_text(path, page.lstrip())
    by_class = zip(dataset.labels, matcher.best_thresholds(), strict=True)
    thresholds = {
        "threshold": None if best is None else best.score,
        "per_class": {name: None if own is None else own.score for name, own in by_class},
    }
    write_text(Path(path).with_name(THRESHOLDS_NAME), json.dumps(thresholds, indent=2) + "\n")


def page_environment(*folders: Path) -> Environment:
    """Templates of pages that show the words of strangers: all is escaped, nothing can be left out by mistake."""
    environment = Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        finalize=_finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(number=number, plain=plain)
    return environment


def _finalize(value: Any) -> Any:
    """Whatever the template shows passes through here: no text reaches the page with control characters."""
    if isinstance(value, Markup) or not isinstance(value, str) or value.startswith("data:image/"):
        return value
    return plain(value)


def _best_row(rows: Sequence[Mapping[str, float | None]]) -> Mapping[str, float | None] | None:
    """The row of the highest AP; of several the first, as the training keeps it."""
    evaluated = [row for row in rows if row.get("AP") is not None]
    return max(evaluated, key=lambda row: row["AP"] or 0.0, default=None)


def _without_folders(note: str, dataset: DetectionDataset) -> str:
    """The note without the images' folders: where they lie on this machine is nothing to those who get the page."""
    folders = sorted({str(sample.image_path.parent) for sample in dataset.samples}, key=len, reverse=True)
    for folder in folders:
        if folder not in (".", "/"):
            note = note.replace(f"{folder}/", "").replace(f"{folder}\\", "")
    return note


def _training_figures(
    rows: Sequence[Mapping[str, float | None]], best_row: Mapping[str, float | None] | None
) -> list[_Figure]:
    best_epoch = None if best_row is None else best_row["epoch"]
    light, dark = (training_panels(rows, ink, best_epoch) for ink in _INKS.values())
    return [_Figure(title, _png(first), _png(second)) for (title, first), (_, second) in zip(light, dark, strict=True)]


def _named_curves(evaluation: Evaluation) -> list[int]:
    """All classes that have a curve if they can be told apart by their colours, else the weakest at the first IoU."""
    mean = evaluation.precision[0].mean(axis=0)  # not a number without ground truth
    known = np.flatnonzero(~np.isnan(mean))
    if len(known) > LEGEND_LIMIT:
        known = known[np.argsort(mean[known], kind="stable")[:_WEAKEST_NAMED]]
    return known.tolist()


def _precision_recall_figures(evaluation: Evaluation) -> list[_Figure]:
    if np.isnan(evaluation.precision).all():
        return []
    named = _named_curves(evaluation)
    light, dark = (precision_recall_panels(RECALLS, evaluation.precision, named, ink) for ink in _INKS.values())
    return [
        _Figure(f"IoU {iou:g}", _png(first), _png(second))
        for iou, first, second in zip(PR_IOUS, light, dark, strict=True)
    ]


def _curve_names(evaluation: Evaluation) -> list[tuple[str, str, list[float]]]:
    """(class, colour, AP at each of `PR_IOUS`) of the curves with a colour."""
    names, means = list(evaluation.per_class), evaluation.precision.mean(axis=1)
    return [
        (names[label], line_color(place), means[:, label].tolist())
        for place, label in enumerate(_named_curves(evaluation))
    ]


def _png(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"
