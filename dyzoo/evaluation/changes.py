"""How much two sets of detections differ, image by image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from dyzoo.boxes import pairwise_iou
from dyzoo.data import DetectionDataset

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
    index = {sample.image_id: number for number, sample in enumerate(dataset.samples)}
    groups: tuple[dict[tuple[int, int], list[Entry]], ...] = (defaultdict(list), defaultdict(list))
    total = np.zeros(len(dataset))
    for group, entries in zip(groups, (first, second), strict=True):
        for entry in entries:
            group[entry["image_id"], entry["category_id"]].append(entry)
            total[index[entry["image_id"]]] += entry["score"]
    for key in groups[0].keys() & groups[1].keys():
        total[index[key[0]]] -= 2 * _in_common(groups[0][key], groups[1][key])
    return np.maximum(total, 0.0).round(12)  # what is left of equal sums by rounding is no change


def _in_common(first: list[Entry], second: list[Entry]) -> float:
    """The sum over pairs of IoU times lower score."""
    # double precision: the IoU of a box with itself has to be 1 to the last bit
    boxes = [torch.tensor([entry["bbox"] for entry in entries], dtype=torch.float64) for entries in (first, second)]
    corners = [torch.cat([b[:, :2], b[:, :2] + b[:, 2:]], dim=1) for b in boxes]
    scores = [np.array([entry["score"] for entry in entries]) for entries in (first, second)]
    shared = pairwise_iou(*corners).nan_to_num().numpy() * np.minimum.outer(*scores)
    same = (boxes[0][:, None] == boxes[1][None]).all(dim=2).numpy()
    shared = np.where(same, np.minimum.outer(*scores), shared)  # boxes without area too
    total, free = 0.0, (np.ones(len(first), dtype=bool), np.ones(len(second), dtype=bool))
    rows, places = np.unravel_index(np.argsort(-shared, axis=None, kind="stable"), shared.shape)
    for row, place in zip(rows.tolist(), places.tolist(), strict=True):
        if shared[row, place] <= 0:
            break
        if free[0][row] and free[1][place]:
            total += shared[row, place]
            free[0][row] = free[1][place] = False
    return total
