"""From precision and recall to the numbers of an `Evaluation`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dyzoo.data import DetectionDataset
from dyzoo.evaluation.result import PR_IOUS
from dyzoo.evaluation.scorers import AREAS, DETECTION_LIMITS, Scorer, ground_truth


class Metrics(NamedTuple):
    """Fields of `Evaluation` that are computed from its detections."""

    metrics: dict[str, float | None]
    per_class: dict[str, dict[str, float | None]]
    precision: np.ndarray


def measure(dataset: DetectionDataset, detections: list[dict[str, Any]], scorer: Scorer) -> Metrics:
    """COCO's metrics of `detections`, entries of a COCO results file with the dataset's ids."""
    truth = ground_truth(dataset)
    precision, recall, ious = scorer(dataset, truth, detections)
    iou_at = {iou: int(np.abs(ious - iou).argmin()) for iou in PR_IOUS}

    def ap(area: str = "all", iou: float | None = None, label: int | None = None) -> float | None:
        values = precision[:, :, :, AREAS[area], -1]
        values = values if iou is None else values[iou_at[iou]][None]
        return _mean(values if label is None else values[:, :, label])

    metrics = {"AP": ap(), "AP50": ap(iou=0.5), "AP75": ap(iou=0.75)}
    metrics |= {f"AP{area}": ap(area) for area in AREAS if area != "all"}
    metrics |= {f"AR{limit}": _mean(recall[:, :, 0, index]) for index, limit in enumerate(DETECTION_LIMITS)}
    per_class = {
        name: {
            "AP": ap(label=label),
            "AP50": ap(iou=0.5, label=label),
            "AP75": ap(iou=0.75, label=label),
            "boxes": sum(box["category_id"] == dataset.category_ids[label] and not box["iscrowd"] for box in truth),
        }
        for label, name in enumerate(dataset.labels)
    }
    curves = precision[[iou_at[iou] for iou in PR_IOUS], :, :, 0, -1]
    return Metrics(metrics, per_class, np.where(curves < 0, np.nan, curves))


def _mean(values: np.ndarray) -> float | None:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None
