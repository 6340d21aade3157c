"""How much two sets of detections differ, image by image."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from dyzoo.data import DetectionDataset
from dyzoo.model.boxes import pairwise_iou

Entry = dict[str, Any]


def changes(dataset: DetectionDataset, first: Iterable[Entry], second: Iterable[Entry]) -> np.ndarray:
    """The score that appeared, vanished or moved in each image: (N,), 0 where nothing changed.

    Detections of one class are paired one to one, the pairs with the largest IoU times lower score first. With IoU u
    and scores s and t a pair adds s + t - 2 u min(s, t): nothing if box and score are the same, the difference of the
    scores if the boxes are. A detection without an overlapping partner adds its score.

    Args:
        dataset: the images, N.
        first, second: entries of COCO results files for them.
    """
    of_image: dict[int, tuple[list[Entry], list[Entry]]] = {s.image_id: ([], []) for s in dataset.samples}
    for which, entries in enumerate((first, second)):
        for entry in entries:
            of_image[entry["image_id"]][which].append(entry)
    found = np.array([_change(*of_image[sample.image_id]) for sample in dataset.samples])
    return np.maximum(found, 0.0).round(12)  # what rounding leaves of equal sums is no change


def _change(first: list[Entry], second: list[Entry]) -> float:
    """How much the detections of one image changed, 0 where they are the same."""
    total = sum(entry["score"] for entries in (first, second) for entry in entries)
    if not first or not second:
        return total
    # double precision: the IoU of a box with itself has to be 1 to the last bit
    boxes = [torch.tensor([entry["bbox"] for entry in entries], dtype=torch.float64) for entries in (first, second)]
    iou = pairwise_iou(*(torch.cat([b[:, :2], b[:, :2] + b[:, 2:]], dim=1) for b in boxes)).numpy()
    iou[(boxes[0][:, None] == boxes[1][None]).all(dim=2).numpy()] = 1.0  # those without area too
    classes, scores = (
        [np.array([entry[kind] for entry in entries]) for entries in (first, second)]
        for kind in ("category_id", "score")
    )
    shared = np.where(np.equal.outer(*classes), iou * np.minimum.outer(*scores), 0.0)
    rows, places = np.nonzero(shared > 0)
    order = np.argsort(-shared[rows, places], kind="stable")
    free_rows, free_places = set(range(len(first))), set(range(len(second)))
    for row, place in zip(rows[order].tolist(), places[order].tolist(), strict=True):
        if row in free_rows and place in free_places:
            total -= 2 * shared[row, place]
            free_rows.remove(row)
            free_places.remove(place)
    return float(total)
