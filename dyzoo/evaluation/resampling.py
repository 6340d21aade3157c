"""AP on images drawn again and again from a dataset, after matching detections with the ground truth once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from dyzoo.data import DetectionDataset
from dyzoo.evaluation.result import RECALLS
from dyzoo.evaluation.scorers import ground_truth, prepared, silence

_VALUES_AT_ONCE = 4_000_000
"""Weights of detections held in memory, 8 bytes each."""


class ClassMatches(NamedTuple):
    """The D detections of one class in all images, highest score first, and what they match at each of T IoUs."""

    image: np.ndarray  # (D,) int64, index into the dataset's samples
    hits: tuple[np.ndarray, ...]  # T times (P,) int64, ascending: the detections that are right
    counted: tuple[np.ndarray | None, ...]  # T times (D,) bool: those that do not lie in a crowd; None: all
    objects: np.ndarray  # (N,) int64, ground-truth boxes of each image without crowds


def match(dataset: DetectionDataset, detections: list[dict[str, Any]]) -> list[ClassMatches]:
    """pycocotools' matches for each of the dataset's labels, objects of all sizes, up to 100 detections an image."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    evaluator = prepared(COCO, COCOeval, dataset, ground_truth(dataset), detections)
    evaluator.params.areaRng = evaluator.params.areaRng[:1]
    evaluator.params.areaRngLbl = evaluator.params.areaRngLbl[:1]
    with silence():
        evaluator.evaluate()
    index = {sample.image_id: number for number, sample in enumerate(dataset.samples)}
    images = len(evaluator.params.imgIds)
    position = {id_: number for number, id_ in enumerate(evaluator.params.catIds)}
    starts = [position[id_] * images for id_ in dataset.category_ids]
    return [
        _of_class(
            [found for found in evaluator.evalImgs[start : start + images] if found is not None],
            index,
            len(evaluator.params.iouThrs),
        )
        for start in starts
    ]


def average_precisions(matches: Sequence[ClassMatches], weights: np.ndarray) -> np.ndarray:
    """AP of every class in resampled datasets.

    Args:
        matches: matches of each of K classes.
        weights: (B, N) how many times each image is in each of B datasets.

    Returns:
        (B, T, K), the T IoUs from .5 to .95; NaN where a dataset has no object of the class. With each image once,
        pycocotools' numbers; with repeated ones, those of a dataset with copies of them.
    """
    return np.stack([_average_precision(of_class, weights) for of_class in matches], axis=2)


def draw(images: int, draws: int, seed: int, longest: int) -> Iterator[np.ndarray]:
    """Draw datasets of N images with replacement: (B, N), how many times each image is in each of the next B datasets.

    Args:
        images: N.
        draws: number of datasets, the sum of all B.
        seed: one seed, one series of draws, whatever is done with them.
        longest: the most detections of a class, which B is chosen by.
    """
    random = np.random.default_rng(seed)
    at_once = max(_VALUES_AT_ONCE // max(longest, images, 1), 1)
    for start in range(0, draws, at_once):
        chosen = random.integers(images, size=(min(at_once, draws - start), images))
        yield np.stack([np.bincount(row, minlength=images) for row in chosen])


def _of_class(found: list[dict[str, Any]], index: dict[int, int], ious: int) -> ClassMatches:
    objects = np.zeros(len(index), dtype=np.int64)
    for of_image in found:
        objects[index[of_image["image_id"]]] = np.count_nonzero(of_image["gtIgnore"] == 0)
    if not found:
        none = np.zeros(0, dtype=np.int64)
        return ClassMatches(none, (none,) * ious, (None,) * ious, objects)
    scores = np.concatenate([of_image["dtScores"] for of_image in found])
    order = np.argsort(-scores, kind="mergesort")  # pycocotools' way: among equal scores the first image is first
    image = np.concatenate([np.full(len(f["dtScores"]), index[f["image_id"]], dtype=np.int64) for f in found])[order]
    matched = np.concatenate([of_image["dtMatches"] for of_image in found], axis=1)[:, order] > 0
    ignored = np.concatenate([of_image["dtIgnore"] for of_image in found], axis=1)[:, order].astype(bool)
    right = matched & ~ignored
    # What comes after the last that is right at any IoU changes no precision at any recall.
    needed = int(right.any(axis=0).nonzero()[0].max(initial=-1)) + 1
    return ClassMatches(
        image[:needed],
        tuple(row.nonzero()[0] for row in right),
        tuple(~row[:needed] if row[:needed].any() else None for row in ignored),
        objects,
    )


def _average_precision(of_class: ClassMatches, weights: np.ndarray) -> np.ndarray:
    """(B, T) for weights (B, N)."""
    times = weights[:, of_class.image].astype(np.float64)  # (B, D)
    objects = (weights @ of_class.objects).astype(np.float64)[:, None]  # (B, 1)
    all_seen = np.cumsum(times, axis=1)
    result = np.full((len(weights), len(of_class.hits)), np.nan)
    for iou, (hits, counted) in enumerate(zip(of_class.hits, of_class.counted, strict=True)):
        seen = all_seen if counted is None else np.cumsum(times * counted, axis=1)
        right = np.cumsum(times[:, hits], axis=1)  # (B, P)
        # Precision only peaks, and recall only rises, where a detection is right: other places need no look. A
        # repeated image takes both steps at once, which leaves the highest precision from each recall on as it is.
        precision = right / (seen[:, hits] + np.spacing(1))
        best_from_here = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        with np.errstate(invalid="ignore", divide="ignore"):
            recall = right / objects
        reached = np.searchsorted(RECALLS, np.nan_to_num(recall), side="right")
        first_reached = np.diff(reached, axis=1, prepend=0)
        result[:, iou] = (best_from_here * first_reached).sum(axis=1) / len(RECALLS)
    result[objects[:, 0] == 0] = np.nan
    return result
