"""Run a model over a dataset, in one process or divided among several, and measure what it finds."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal, NamedTuple, Protocol

import torch

from dyzoo.data import DetectionDataset, Sample
from dyzoo.distributed import MAIN, gather_everywhere, gather_on_main, process_count, process_index
from dyzoo.errors import DatasetError, ImageError
from dyzoo.evaluation.cost import Stopwatch
from dyzoo.evaluation.display import shown
from dyzoo.evaluation.metrics import measure
from dyzoo.evaluation.result import Evaluation
from dyzoo.evaluation.scorers import ScorerName, load_scorer
from dyzoo.images.detections import Detections
from dyzoo.images.reading import read_image
from dyzoo.model.missed import MissedWarning
from dyzoo.text import printable

_MOST_NOTES = 5  # on what may be missing


class Predictor(Protocol):
    """A model that can be evaluated: a `Detector`, or anything that answers like one."""

    @property
    def labels(self) -> tuple[str, ...]: ...
    def predict(
        self, images: Any, threshold: float = ..., *, size: int | Literal["native"] | None = ..., batch_size: int = ...
    ) -> list[Detections]: ...


def evaluate(
    model: Predictor,
    dataset: DetectionDataset,
    batch_size: int = 1,
    size: int | Literal["native"] | None = None,
    progress: bool = True,
    scorer: ScorerName = "pycocotools",
    flips: Sequence[str] = (),
    precision: Literal["fp32", "bf16", "fp16"] | None = None,
) -> Evaluation:
    """Run the model over every image and compare with the ground truth.

    Classes are matched by name. Crowd (VOC: difficult) regions neither count as missed nor as found. An image that
    cannot be read counts as one in which nothing was found.

    Args:
        model: its detections of any score count, up to 100 per image and class.
        dataset: ground truth, see `dyzoo.data.open_dataset`.
        batch_size: images per forward pass; those of one size go together, so that the numbers do not depend on it.
        size: as for `Detector.predict`.
        progress: show a bar on stderr if that is a terminal.
        scorer: the package that computes the metrics; the numbers are the same, faster-coco-eval is optional.
        flips: as for `Detector.predict`; other predictors are asked for it only where it is not empty.
        precision: as for `Detector.predict`; other predictors are asked for it only where it is not None.

    Raises:
        DatasetError: model and dataset have no class in common, or there is no image, or none that can be read.
        DyzooError: the scorer is not installed.
    """
    evaluation = _evaluate(
        model, dataset, _ALONE, progress, _Settings(scorer, batch_size, size, tuple(flips), precision)
    )
    assert evaluation is not None  # alone, this is the main process
    return evaluation


def evaluate_together(
    model: Predictor,
    dataset: DetectionDataset,
    batch_size: int = 1,
    size: int | Literal["native"] | None = None,
    progress: bool = True,
    scorer: ScorerName = "pycocotools",
    flips: Sequence[str] = (),
    precision: Literal["fp32", "bf16", "fp16"] | None = None,
) -> Evaluation | None:
    """`evaluate` with the work divided among the processes of a distributed training, which all have to call it.

    Every batch is detected in once, with the images that `evaluate` would put into it, so the numbers are the same.

    Args:
        model: the detector, with the same weights on every process.
        dataset: the whole of it, on every process.
        batch_size, size, progress, scorer, flips, precision: as for `evaluate`; the bar is the main process's.

    Returns:
        The evaluation on the main process, with the cost of that process's share; None on the others.

    Raises:
        DatasetError, DyzooError: as for `evaluate`, on every process.
    """
    group = _Group(process_index(), process_count(), gather_everywhere, gather_on_main)
    return _evaluate(model, dataset, group, progress, _Settings(scorer, batch_size, size, tuple(flips), precision))


class _Settings(NamedTuple):
    scorer: ScorerName
    batch_size: int
    size: int | Literal["native"] | None
    flips: tuple[str, ...]
    precision: Literal["fp32", "bf16", "fp16"] | None

    def to_dict(self) -> dict[str, Any]:
        return {**self._asdict(), "flips": list(self.flips)}


@dataclass(frozen=True)
class _Group:
    """The processes that share the work, and the two ways in which their findings come together."""

    index: int
    count: int
    everywhere: Callable[[Any], list[Any]]
    on_main: Callable[[Any], list[Any]]


_ALONE = _Group(MAIN, 1, lambda value: [value], lambda value: [value])


class _Found(NamedTuple):
    """Detections in one batch, its images that could not be read, and why something may be missing in others."""

    results: list[dict[str, Any]]
    unreadable: list[str]
    missed: list[str]


def _batches_of_one_size(samples: Sequence[Sample], batch_size: int) -> list[list[Sample]]:
    """Batches in which no image is padded for another's sake, as padding is seen by attention over whole maps: the
    numbers are those of one image at a time."""
    by_size: dict[tuple[int, int], list[Sample]] = {}
    for sample in samples:
        by_size.setdefault((sample.height_px, sample.width_px), []).append(sample)
    return [
        alike[start : start + batch_size] for alike in by_size.values() for start in range(0, len(alike), batch_size)
    ]


def _evaluate(
    model: Predictor, dataset: DetectionDataset, group: _Group, progress: bool, settings: _Settings
) -> Evaluation | None:
    if not len(dataset):
        raise DatasetError("the dataset has no images, expected at least one to evaluate on")
    score = load_scorer(settings.scorer)
    category_ids, unknown, notes = _match_labels(model.labels, dataset)
    mine = _batches_of_one_size(dataset.samples, settings.batch_size)[group.index :: group.count]
    stopwatch = Stopwatch(model, settings.batch_size)
    batches: list[_Found] = []
    with shown(len(mine), "evaluating", progress and group.index == MAIN) as advance:
        for samples in mine:
            batches.append(_detect(model, samples, category_ids, settings, stopwatch))
            advance(1)
    cost = stopwatch.cost()
    unreadable = _interleave(group.everywhere([batch.unreadable for batch in batches]))
    if len(unreadable) == len(dataset):
        raise DatasetError(f"none of the {len(dataset)} images can be read: {unreadable[0]}")
    results = _interleave(group.on_main([batch.results for batch in batches]))
    missed = Counter(_interleave(group.on_main([batch.missed for batch in batches])))
    if group.index != MAIN:
        return None
    places = {sample.image_id: place for place, sample in enumerate(dataset.samples)}
    results.sort(key=lambda entry: places[entry["image_id"]])
    metrics, per_class, precision = measure(dataset, results, score)
    return Evaluation(
        metrics,
        per_class,
        precision,
        results,
        len(dataset),
        (*notes, *unreadable, *(f"{count} images: {note}" for note, count in missed.most_common(_MOST_NOTES))),
        cost,
        unknown,
        settings.to_dict(),
    )


def _detect(
    model: Predictor,
    samples: Sequence[Sample],
    category_ids: Sequence[int | None],
    settings: _Settings,
    stopwatch: Stopwatch,
) -> _Found:
    readable, pictures, unreadable = [], [], []
    for sample in samples:
        try:
            pictures.append(read_image(sample.image_path))
            readable.append(sample)
        except ImageError as error:
            unreadable.append(printable(f"{error}; its objects count as not found"))
    options = {"flips": settings.flips, "precision": settings.precision}
    asked: dict[str, Any] = {name: value for name, value in options.items() if value}
    with stopwatch.batch(len(pictures)), warnings.catch_warnings():
        warnings.simplefilter("ignore", MissedWarning)  # said once, in the evaluation's notes
        found = model.predict(pictures, threshold=0.0, size=settings.size, batch_size=len(samples), **asked)
    known = torch.tensor([id_ is not None for id_ in category_ids])
    coco_ids = [id_ or 0 for id_ in category_ids]
    results: list[dict[str, Any]] = []
    for sample, detections in zip(readable, found, strict=True):
        results += detections[known[detections.labels]].to_coco(sample.image_id, coco_ids)
    return _Found(results, unreadable, [note for detections in found for note in detections.notes])


def _interleave(dealt: Sequence[Sequence[list[Any]]]) -> list[Any]:
    """The entries of batches that were dealt out to processes one by one, in the batches' order."""
    rounds = zip_longest(*dealt, fillvalue=[])
    return [entry for batches in rounds for batch in batches for entry in batch]


def _match_labels(
    model_labels: Sequence[str], dataset: DetectionDataset
) -> tuple[list[int | None], tuple[str, ...], list[str]]:
    """The dataset's category id of each of the model's labels, the dataset's others, and notes on both's."""
    ids = dict(zip(dataset.labels, dataset.category_ids, strict=True))
    unknown = tuple(label for label in dataset.labels if label not in model_labels)
    if len(unknown) == len(ids):
        raise DatasetError(
            f"the model knows {_some(model_labels)}, the dataset has {_some(dataset.labels)}: no class in common"
        )
    notes = []
    if unknown:
        notes.append(f"the model does not know {_some(unknown)}: their objects count as not found")
    if foreign := [label for label in model_labels if label not in ids]:
        notes.append(f"the dataset has no class {_some(foreign)}: such detections are left out")
    return [ids.get(label) for label in model_labels], unknown, notes


def _some(labels: Sequence[str], limit: int = 5) -> str:
    names = ", ".join(map(printable, labels[:limit]))
    return names + (f" and {len(labels) - limit} more" if len(labels) > limit else "")
