"""The implementations of COCO's metrics: pycocotools, the reference, and faster-coco-eval, for its speed."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from dyzoo.data import DetectionDataset, Sample
from dyzoo.errors import DyzooError

ScorerName = Literal["pycocotools", "faster-coco-eval"]
SCORERS: tuple[ScorerName, ...] = get_args(ScorerName)
"""Their numbers are the same; the first is the default."""

AREAS = {"all": 0, "s": 1, "m": 2, "l": 3}
"""Positions of the area ranges: all, under 32^2 px, under 96^2 px, above; see `dyzoo.data.Sample.areas_px2`."""

DETECTION_LIMITS = (1, 10, 100)
"""Detections per image and class that take part, the highest scores first."""

Entries = list[dict[str, Any]]


class Scores(NamedTuple):
    """Precision and recall with classes in the order of the dataset's labels; -1 where there is no ground truth."""

    precision: np.ndarray  # (T IoUs, 101 recalls, K classes, 4 areas, 3 limits)
    recall: np.ndarray  # (T, K, 4, 3)
    ious: np.ndarray  # (T,): .5 to .95


Scorer = Callable[[DetectionDataset, Entries, Entries], Scores]
"""Called with a dataset, its `ground_truth` and the detections, as entries of a COCO results file."""


def load_scorer(name: ScorerName) -> Scorer:
    """The scorer of that name.

    Raises:
        ValueError: there is none of that name.
        DyzooError: its package is not installed.
    """
    if name == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    elif name == "faster-coco-eval":
        try:
            from faster_coco_eval import COCO
            from faster_coco_eval import COCOeval_faster as COCOeval
        except ImportError:
            raise DyzooError(
                "the scorer faster-coco-eval is not installed: pip install faster-coco-eval, or use pycocotools"
            ) from None
    else:
        raise ValueError(f"scorer is {name!r}, expected one of {', '.join(SCORERS)}")

    def score(dataset: DetectionDataset, truth: Entries, found: Entries) -> Scores:
        evaluator = prepared(COCO, COCOeval, dataset, truth, found)
        with silence():
            evaluator.evaluate()
            evaluator.accumulate()
        by_label = np.argsort(np.argsort(dataset.category_ids))  # both put classes in the order of their ids
        precision, recall = (np.asarray(evaluator.eval[kind]) for kind in ("precision", "recall"))
        return Scores(precision[:, :, by_label], recall[:, by_label], evaluator.params.iouThrs)

    return score


def prepared(coco: Any, evaluator: Any, dataset: DetectionDataset, truth: Entries, found: Entries) -> Any:
    """An evaluator over boxes with the dataset's images and classes, of the classes `COCO` and `COCOeval` given."""
    images = [{"id": sample.image_id} for sample in dataset.samples]
    categories = [{"id": id_} for id_ in dataset.category_ids]
    measured = [{**entry, "area": entry["bbox"][2] * entry["bbox"][3]} for entry in found]
    with silence():
        tables = [_table(coco, images, categories, entries) for entries in (truth, measured)]
        made = evaluator(*tables, "bbox")
    made.params.imgIds = [image["id"] for image in images]
    made.params.catIds = list(dataset.category_ids)
    made.params.maxDets = list(DETECTION_LIMITS)
    return made


def ground_truth(dataset: DetectionDataset) -> Entries:
    """The dataset's boxes as annotations of a COCO file, with the areas of its label files, crowd regions marked."""
    return [box for sample in dataset.samples for box in _annotations(sample, dataset.category_ids)]


def silence() -> contextlib.AbstractContextManager[Any]:
    """pycocotools prints what it is about at every step."""
    return contextlib.redirect_stdout(io.StringIO())


def _annotations(sample: Sample, category_ids: Sequence[int]) -> Iterable[dict[str, Any]]:
    for (x1, y1, x2, y2), label, crowd, area in zip(
        *(values.tolist() for values in (sample.boxes_xyxy, sample.labels, sample.crowd, sample.areas_px2)), strict=True
    ):
        yield {
            "image_id": sample.image_id,
            "category_id": category_ids[label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": area,
            "iscrowd": int(crowd),
        }


def _table(coco: Any, images: Entries, categories: Entries, entries: Entries) -> Any:
    """A table of annotations or detections; made by hand, as `loadRes` refuses an empty list."""
    table = coco()
    # Ids count from 1: a match with annotation 0 is taken for no match.
    annotations = [{"iscrowd": 0, **entry, "id": number} for number, entry in enumerate(entries, start=1)]
    table.dataset = {"images": images, "categories": categories, "annotations": annotations}
    table.createIndex()
    return table
