"""COCO's detection metrics of a model on a dataset, by pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console
from rich.progress import track

from dyzoo.data import DetectionDataset, Sample
from dyzoo.detections import Detections
from dyzoo.distributed import MAIN, gather_everywhere, gather_on_main, process_count, process_index
from dyzoo.errors import DatasetError, ImageError
from dyzoo.files import replacing, write_text
from dyzoo.images import read_image
from dyzoo.plots import save_precision_recall

PR_IOUS = (0.5, 0.75)
"""IoU thresholds of the precision-recall curves."""

RECALLS = np.linspace(0, 1, 101)
"""The recalls that COCO samples precision at."""

_AREAS = {"all": 0, "s": 1, "m": 2, "l": 3}  # positions of pycocotools' area ranges: under 32^2, 96^2 px, above
_DETECTION_LIMITS = (1, 10, 100)  # per image


class Predictor(Protocol):
    """What can be evaluated: a `Detector`, or anything that answers like one."""

    @property
    def labels(self) -> tuple[str, ...]: ...
    def predict(
        self, images: Any, threshold: float = ..., size: int | Literal["native"] | None = ..., batch_size: int = ...
    ) -> list[Detections]: ...


@dataclass(frozen=True, eq=False)
class Evaluation:
    """COCO metrics in 0..1; None where there is no ground truth to measure on.

    Attributes:
        metrics: AP (mean over IoU .5 to .95), AP50, AP75, APs, APm, APl (objects whose box has an area under 32^2 px,
            under 96^2 px, and above), AR1, AR10, AR100 (recall with so many detections per image).
        per_class: label -> AP, AP50, AP75 and the number of ground-truth boxes.
        precision: (2, 101, K) at the IoUs of `PR_IOUS` and recalls of `RECALLS`; NaN for a class without ground truth.
        detections: all that was found, as entries of a COCO results file.
        num_images: images in the dataset.
        notes: one line for each image that could not be read and for labels that do not match.
    """

    metrics: dict[str, float | None]
    per_class: dict[str, dict[str, float | None]]
    precision: np.ndarray
    detections: list[dict[str, Any]]
    num_images: int
    notes: tuple[str, ...] = ()

    def table(self) -> str:
        """The metrics as plain text for a terminal."""
        columns = ("boxes", "AP", "AP50", "AP75")
        totals = {**self.metrics, "boxes": sum(values["boxes"] or 0 for values in self.per_class.values())}
        lines: list[tuple[str, ...]] = [("class", *columns)]
        for name, values in {**self.per_class, "all": totals}.items():
            lines.append((name, f"{values['boxes']:g}", *(_number(values[column]) for column in columns[1:])))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = [
            "  ".join([name.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(cells, widths[1:], strict=True))])
            for name, *cells in lines
        ]
        others = (f"{name} {_number(value)}" for name, value in self.metrics.items() if name not in columns)
        return "\n".join([*table, "", "  ".join(others)])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without curves and detections."""
        return {
            "images": self.num_images,
            "metrics": self.metrics,
            "per_class": self.per_class,
            "notes": list(self.notes),
        }

    def save(self, folder: str | Path) -> None:
        """Write metrics.json, pr_curve.png and detections.json (COCO results), each aside and then renamed."""
        folder = Path(folder)
        write_text(folder / "metrics.json", json.dumps(self.to_dict(), indent=2) + "\n")
        with replacing(folder / "detections.json") as aside:
            aside.write_text(json.dumps(self.detections), encoding="utf-8")
        save_precision_recall(RECALLS, self.precision, PR_IOUS, list(self.per_class), folder / "pr_curve.png")


def evaluate(
    model: Predictor,
    dataset: DetectionDataset,
    batch_size: int = 1,
    size: int | Literal["native"] | None = None,
    progress: bool = True,
) -> Evaluation:
    """Run the model over every image and compare with the ground truth.

    Classes are matched by name. Crowd (VOC: difficult) regions neither count as missed nor as found. An image that
    cannot be read counts as one in which nothing was found.

    Args:
        model: its detections of any score count, up to 100 per image.
        dataset: ground truth, see `dyzoo.data.open_dataset`.
        batch_size: images per forward pass.
        size: as for `Detector.predict`.
        progress: show a bar on stderr if that is a terminal.

    Raises:
        DatasetError: model and dataset have no class in common, or no image can be read.
    """
    category_ids, notes = _match_labels(model.labels, dataset)
    chunks = [_detect(model, chunk, category_ids, size) for chunk in _shown(_chunks(dataset, batch_size), progress)]
    unreadable = [note for chunk in chunks for note in chunk.unreadable]
    _check_readable(dataset, unreadable)
    return _score(dataset, [entry for chunk in chunks for entry in chunk.results], (*notes, *unreadable))


def evaluate_together(
    model: Predictor,
    dataset: DetectionDataset,
    batch_size: int = 1,
    size: int | Literal["native"] | None = None,
    progress: bool = True,
) -> Evaluation | None:
    """`evaluate` with the work divided among the processes of a distributed training, which all have to call it.

    Every batch is detected in once, with the images that `evaluate` would put into it, so the numbers are the same.

    Args:
        model: with the same weights on every process.
        dataset: the whole of it, on every process.
        batch_size, size, progress: as for `evaluate`; the bar is the main process's.

    Returns:
        The evaluation on the main process, None on the others.

    Raises:
        DatasetError: as for `evaluate`, on every process.
    """
    index, count = process_index(), process_count()
    category_ids, notes = _match_labels(model.labels, dataset)
    mine = _chunks(dataset, batch_size)[index::count]
    chunks = [_detect(model, chunk, category_ids, size) for chunk in _shown(mine, progress and index == MAIN)]
    unreadable = _interleave(gather_everywhere([chunk.unreadable for chunk in chunks]))
    _check_readable(dataset, unreadable)
    results = _interleave(gather_on_main([chunk.results for chunk in chunks]))
    return _score(dataset, results, (*notes, *unreadable)) if index == MAIN else None


class _Chunk(NamedTuple):
    """What was found in one batch."""

    results: list[dict[str, Any]]
    unreadable: list[str]


def _chunks(dataset: DetectionDataset, batch_size: int) -> list[list[Sample]]:
    return [dataset.samples[start : start + batch_size] for start in range(0, len(dataset), batch_size)]


def _shown(chunks: list[list[Sample]], progress: bool) -> Iterable[list[Sample]]:
    console = Console(stderr=True)
    return track(chunks, "evaluating", console=console, transient=True, disable=not (progress and console.is_terminal))


def _detect(
    model: Predictor,
    chunk: Sequence[Sample],
    category_ids: Sequence[int | None],
    size: int | Literal["native"] | None,
) -> _Chunk:
    samples, pictures, unreadable = [], [], []
    for sample in chunk:
        try:
            pictures.append(read_image(sample.image_path))
            samples.append(sample)
        except ImageError as error:
            unreadable.append(f"{error}; its objects count as not found")
    known = torch.tensor([id_ is not None for id_ in category_ids])
    coco_ids = [id_ or 0 for id_ in category_ids]
    results: list[dict[str, Any]] = []
    found = model.predict(pictures, threshold=0.0, size=size, batch_size=len(chunk))
    for sample, detections in zip(samples, found, strict=True):
        results += detections[known[detections.labels]].to_coco(sample.image_id, coco_ids)
    return _Chunk(results, unreadable)


def _interleave(dealt: Sequence[Sequence[list[Any]]]) -> list[Any]:
    """The entries of chunks that were dealt out to processes one by one, in the chunks' order."""
    rounds = zip_longest(*dealt, fillvalue=[])
    return [entry for chunks in rounds for chunk in chunks for entry in chunk]


def _check_readable(dataset: DetectionDataset, unreadable: Sequence[str]) -> None:
    if len(unreadable) == len(dataset):
        raise DatasetError(f"none of the {len(dataset)} images can be read: {unreadable[0]}")


def _match_labels(model_labels: Sequence[str], dataset: DetectionDataset) -> tuple[list[int | None], list[str]]:
    """The dataset's category id of each of the model's labels, and notes on those without a partner."""
    ids = dict(zip(dataset.labels, dataset.category_ids, strict=True))
    unknown = [label for label in dataset.labels if label not in model_labels]
    if len(unknown) == len(ids):
        raise DatasetError(
            f"the model knows {_some(model_labels)}, the dataset has {_some(dataset.labels)}: no class in common"
        )
    notes = []
    if unknown:
        notes.append(f"the model does not know {_some(unknown)}: their objects count as not found")
    if foreign := [label for label in model_labels if label not in ids]:
        notes.append(f"the dataset has no class {_some(foreign)}: such detections are left out")
    return [ids.get(label) for label in model_labels], notes


def _some(labels: Sequence[str], limit: int = 5) -> str:
    return ", ".join(labels[:limit]) + (f" and {len(labels) - limit} more" if len(labels) > limit else "")


def _score(dataset: DetectionDataset, results: list[dict[str, Any]], notes: tuple[str, ...]) -> Evaluation:
    boxes = [box for sample in dataset.samples for box in _ground_truth(sample, dataset.category_ids)]
    scorer = _run_pycocotools(dataset, boxes, results)
    by_label = np.argsort(np.argsort(dataset.category_ids))  # pycocotools puts classes in the order of their ids
    precision = scorer.eval["precision"][:, :, by_label]  # (T ious, 101 recalls, K, 4 areas, 3 limits), -1: undefined
    recall = scorer.eval["recall"]  # (T, K, 4, 3)
    iou_at = {iou: int(np.abs(scorer.params.iouThrs - iou).argmin()) for iou in PR_IOUS}

    def ap(area: str = "all", iou: float | None = None, label: int | None = None) -> float | None:
        values = precision[:, :, :, _AREAS[area], -1]
        values = values if iou is None else values[iou_at[iou]][None]
        return _mean(values if label is None else values[:, :, label])

    metrics = {"AP": ap(), "AP50": ap(iou=0.5), "AP75": ap(iou=0.75)}
    metrics |= {f"AP{area}": ap(area) for area in _AREAS if area != "all"}
    metrics |= {f"AR{limit}": _mean(recall[:, :, 0, index]) for index, limit in enumerate(_DETECTION_LIMITS)}
    per_class = {
        name: {
            "AP": ap(label=label),
            "AP50": ap(iou=0.5, label=label),
            "AP75": ap(iou=0.75, label=label),
            "boxes": sum(box["category_id"] == dataset.category_ids[label] and not box["iscrowd"] for box in boxes),
        }
        for label, name in enumerate(dataset.labels)
    }
    curves = precision[[iou_at[iou] for iou in PR_IOUS], :, :, 0, -1]
    return Evaluation(metrics, per_class, np.where(curves < 0, np.nan, curves), results, len(dataset), notes)


def _ground_truth(sample: Sample, category_ids: Sequence[int]) -> Iterable[dict[str, Any]]:
    for (x1, y1, x2, y2), label, crowd in zip(
        sample.boxes_xyxy.tolist(), sample.labels.tolist(), sample.crowd.tolist(), strict=True
    ):
        yield {
            "image_id": sample.image_id,
            "category_id": category_ids[label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "iscrowd": int(crowd),
        }


def _run_pycocotools(dataset: DetectionDataset, boxes: list[dict[str, Any]], results: list[dict[str, Any]]) -> COCOeval:
    images = [{"id": sample.image_id} for sample in dataset.samples]
    categories = [{"id": id_} for id_ in dataset.category_ids]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports on every step
        truth, found = (_coco(images, categories, entries) for entries in (boxes, results))
        scorer = COCOeval(truth, found, "bbox")
        scorer.params.imgIds = [image["id"] for image in images]
        scorer.params.catIds = list(dataset.category_ids)
        scorer.params.maxDets = list(_DETECTION_LIMITS)
        scorer.evaluate()
        scorer.accumulate()
    return scorer


def _coco(images: list[dict[str, Any]], categories: list[dict[str, Any]], entries: list[dict[str, Any]]) -> COCO:
    """pycocotools' table of annotations or detections; made by hand, as `loadRes` refuses an empty list."""
    coco = COCO()
    # Ids count from 1: pycocotools takes a match with annotation 0 for no match.
    annotations = [
        {"iscrowd": 0, **entry, "id": number, "area": entry["bbox"][2] * entry["bbox"][3]}
        for number, entry in enumerate(entries, start=1)
    ]
    coco.dataset = {"images": images, "categories": categories, "annotations": annotations}
    coco.createIndex()
    return coco


def _mean(values: np.ndarray) -> float | None:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
