"""Two models on one dataset: whose metrics are higher, how sure that is, and where their detections differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dyzoo.data import DetectionDataset
from dyzoo.errors import DatasetError
from dyzoo.evaluation.changes import changes
from dyzoo.evaluation.compared import Comparison, Difference, ImageChange
from dyzoo.evaluation.display import shown
from dyzoo.evaluation.resampling import ClassMatches, average_precisions, draw, match
from dyzoo.evaluation.result import Evaluation

DRAWS = 1000
"""Enough for the ends of a 95 % interval to stand to two places."""

LEAST_CHANGE = 1e-3
"""Score that an image has to change by to count as changed: the rounding of another runtime or of another order of sums
moves all scores and boxes of an image by some 1e-5 together."""

CHANGED_IMAGES = 20
"""Number of images named among those that changed."""

_RESAMPLED = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6)}  # of the IoUs from .5 to .95


def compare(
    first: Evaluation,
    second: Evaluation,
    dataset: DetectionDataset,
    draws: int = DRAWS,
    seed: int = 0,
    names: tuple[str, str] = ("first", "second"),
    progress: bool = True,
) -> Comparison:
    """Compare two models: how much better or worse the first is than the second.

    The intervals are those of a paired bootstrap (Efron & Tibshirani, 1993): datasets of as many images are drawn with
    replacement from this one, both models are measured on each, and the middle 95 % of the differences are the
    interval. It says how much the difference depends on which images happen to be in the dataset, and nothing of
    what another training of the same model would give.

    Args:
        first, second: results of `evaluate`, both for this dataset.
        dataset: the ground truth.
        draws: datasets to draw; 0 for no intervals.
        seed: seed of the draws.
        names: names of the two models.
        progress: show a bar on stderr if that is a terminal.

    Raises:
        DatasetError: an evaluation is of another dataset.
        ValueError: `draws` is negative.
    """
    if draws < 0:
        raise ValueError(f"draws is {draws}, expected 0 or more")
    for evaluation, name in zip((first, second), names, strict=True):
        _check_dataset(evaluation, name, dataset)
    with shown(3, "matching", progress) as advance:
        matches = []
        for evaluation in (first, second):
            matches.append(match(dataset, evaluation.detections))
            advance(1)
        changed = changes(dataset, first.detections, second.detections)
        changed[changed < LEAST_CHANGE] = 0.0
        advance(1)
    samples = _bootstrap(matches, len(dataset), draws, seed, progress)
    known = [number for number, label in enumerate(dataset.labels) if label not in {*first.unknown, *second.unknown}]
    shared = tuple(dataset.labels[number] for number in known)
    return Comparison(
        names=names,
        num_images=len(dataset),
        metrics=_differences(first.metrics, second.metrics, samples, range(len(dataset.labels))),
        per_class={
            label: _differences(first.per_class[label], second.per_class[label], samples, [number])
            for number, label in enumerate(dataset.labels)
        },
        shared_labels=shared,
        shared=_differences(_means(first, shared), _means(second, shared), samples, known)
        if 0 < len(shared) < len(dataset.labels)
        else {},
        costs=(first.cost, second.cost),
        draws=draws,
        seed=seed,
        num_changed=int(np.count_nonzero(changed)),
        changed=_most_changed(dataset, changed, matches),
        notes=tuple(f"{name}: {note}" for e, name in zip((first, second), names, strict=True) for note in e.notes),
    )


Values = Mapping[str, float | None]
_Samples = dict[str, tuple[np.ndarray, np.ndarray]]
"""Metric -> of each model (draws, K) by class; NaN where a draw has no object of the class."""


def _check_dataset(evaluation: Evaluation, name: str, dataset: DetectionDataset) -> None:
    images, categories = {sample.image_id for sample in dataset.samples}, set(dataset.category_ids)
    if (
        evaluation.num_images != len(dataset)
        or tuple(evaluation.per_class) != dataset.labels
        or any(d["image_id"] not in images or d["category_id"] not in categories for d in evaluation.detections)
    ):
        raise DatasetError(
            f"the evaluation of {name} is of another dataset ({evaluation.num_images} images, "
            f"{len(evaluation.per_class)} classes) than the {len(dataset)} images to compare on: evaluate both on one"
        )


def _bootstrap(
    matches: Sequence[Sequence[ClassMatches]], images: int, draws: int, seed: int, progress: bool
) -> _Samples | None:
    if not draws:
        return None
    longest = max(len(of_class.image) for of_model in matches for of_class in of_model)
    parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    with shown(draws, "comparing", progress) as advance:
        for times in draw(images, draws, seed, longest):
            for part, of_model in zip(parts, matches, strict=True):
                part.append(average_precisions(of_model, times))
            advance(len(times))
    first, second = (np.concatenate(part) for part in parts)  # (draws, T, K)
    return {name: (first[:, ious].mean(axis=1), second[:, ious].mean(axis=1)) for name, ious in _RESAMPLED.items()}


def _differences(
    first: Values, second: Values, samples: _Samples | None, classes: Sequence[int]
) -> dict[str, Difference]:
    """All metrics of both but the number of boxes, with intervals of the means over `classes` where there are any."""
    intervals = {}
    for name, (one, other) in (samples or {}).items():
        intervals[name] = _interval(one[:, list(classes)], other[:, list(classes)])
    return {name: Difference(first[name], second[name], intervals.get(name)) for name in first if name != "boxes"}


def _means(evaluation: Evaluation, labels: Sequence[str]) -> dict[str, float | None]:
    return {name: _mean([evaluation.per_class[label][name] for label in labels]) for name in _RESAMPLED}


def _interval(first: np.ndarray, second: np.ndarray) -> tuple[float, float] | None:
    """Interval of the difference of means over classes; both are (draws, K) and lack the same classes in a draw."""
    there = ~np.isnan(first)
    counts = there.sum(axis=1)
    sums = np.where(there, first - second, 0.0).sum(axis=1)
    means = sums[counts > 0] / counts[counts > 0]
    if not len(means):
        return None
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def _most_changed(
    dataset: DetectionDataset, changed: np.ndarray, matches: Sequence[Sequence[ClassMatches]]
) -> list[ImageChange]:
    chosen = [number for number in np.argsort(-changed, kind="stable")[:CHANGED_IMAGES] if changed[number] > 0]
    alone = np.zeros((len(chosen), len(dataset)), dtype=np.int64)
    alone[np.arange(len(chosen)), chosen] = 1
    of_models = []
    for of_model in matches:
        values = average_precisions(of_model, alone).mean(axis=1)  # (B, K)
        of_models.append([_mean([None if np.isnan(v) else float(v) for v in row]) for row in values])
    return [
        ImageChange(dataset.samples[number].image_path, dataset.samples[number].image_id, float(changed[number]), a, b)
        for number, a, b in zip(chosen, *of_models, strict=True)
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
