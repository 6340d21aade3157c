"""Which detection found which object: counted as COCO counts, with confused classes told apart from false finds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask

from dyzoo.data import DetectionDataset

NOTHING = -1
"""The match of what has none."""

_TIED = 1e-9  # differences of the mean F1 below this are rounding


class Outcome(IntEnum):
    """The fate of an object, or of a detection."""

    RIGHT = 0
    CONFUSED = 1  # object and detection are a pair, their classes differ
    UNMATCHED = 2  # an object that was missed, a detection that found nothing
    IGNORED = 3  # a crowd region, a detection inside one


@dataclass(frozen=True, eq=False)
class Objects:
    """The ground truth of a data set, sample by sample: M boxes, crowd regions among them.

    Attributes:
        images, labels: (M,) int64, indices into `DetectionDataset.samples` and `.labels`.
        boxes_xywh: (M, 4) float64, pixels.
        crowd: (M,) bool.
    """

    images: np.ndarray
    labels: np.ndarray
    boxes_xywh: np.ndarray
    crowd: np.ndarray


@dataclass(frozen=True, eq=False)
class Finds:
    """D detections, of all images together, by falling score; those of one score in the order they came in.

    Attributes:
        images, labels: (D,) int64, as in `Objects`.
        boxes_xywh: (D, 4) float64, pixels.
        scores: (D,) float64.
    """

    images: np.ndarray
    labels: np.ndarray
    boxes_xywh: np.ndarray
    scores: np.ndarray

    def first(self, count: int) -> Finds:
        """The finds of the highest scores."""
        return Finds(self.images[:count], self.labels[:count], self.boxes_xywh[:count], self.scores[:count])


class Threshold(NamedTuple):
    """A score, and the mean F1 over classes of the detections that reach it."""

    score: float
    mean_f1: float


class ImageMatches(NamedTuple):
    """One image: positions in `Matches.objects` and `Matches.finds`.

    Attributes:
        objects, finds: all of the image, in the order of its sample and by falling score.
        pairs: (P, 2) those that belong together, whether their classes agree or not.
    """

    objects: np.ndarray
    finds: np.ndarray
    pairs: np.ndarray


@dataclass(frozen=True, eq=False)
class Matches:
    """The detections of a score threshold, paired with the objects.

    Attributes:
        objects, finds: both sides; `finds` are the D that reach the threshold.
        match_of_object: (M,) position in `finds`, or `NOTHING`.
        match_of_find: (D,) position in `objects`, or `NOTHING`.
        outcome_of_object, outcome_of_find: (M,) and (D,) values of `Outcome`.
        nearest_iou: (D,) highest IoU with any object that is no crowd region, 0 without one.
        nearest_own_iou: (D,) the same among the objects of the detection's own class.
        num_images, num_classes: of the data set.
    """

    objects: Objects
    finds: Finds
    match_of_object: np.ndarray
    match_of_find: np.ndarray
    outcome_of_object: np.ndarray
    outcome_of_find: np.ndarray
    nearest_iou: np.ndarray
    nearest_own_iou: np.ndarray
    num_images: int
    num_classes: int

    def confusion(self) -> np.ndarray:
        """(K + 1, K + 1) int64 counts: rows are the truth and last background, columns the prediction and last missed.

        A row of a class sums up to its objects, a column to its detections outside crowd regions; the diagonal holds
        what `Outcome.RIGHT` counts. The last cell is 0.
        """
        counts = np.zeros((self.num_classes + 1, self.num_classes + 1), np.int64)
        paired = self.match_of_find != NOTHING
        np.add.at(counts, (self.objects.labels[self.match_of_find[paired]], self.finds.labels[paired]), 1)
        false = self.outcome_of_find == Outcome.UNMATCHED
        np.add.at(counts, (self.num_classes, self.finds.labels[false]), 1)
        missed = self.outcome_of_object == Outcome.UNMATCHED
        np.add.at(counts, (self.objects.labels[missed], self.num_classes), 1)
        return counts

    def class_scores(self) -> dict[str, np.ndarray]:
        """ "precision", "recall" and "f1" of each class, (K,); NaN where there is nothing to divide by."""
        counts = self.confusion()
        right = counts.diagonal()[:-1].astype(np.float64)
        objects, finds = counts[:-1].sum(axis=1), counts[:, :-1].sum(axis=0)
        with np.errstate(invalid="ignore"):
            return {"precision": right / finds, "recall": right / objects, "f1": 2 * right / (objects + finds)}

    def image_counts(self) -> dict[str, np.ndarray]:
        """Counts in each image, (N,): "right" and "confused" pairs, "missed" objects, "false" finds."""

        def count(images: np.ndarray, chosen: np.ndarray) -> np.ndarray:
            return np.bincount(images[chosen], minlength=self.num_images)

        return {
            "right": count(self.objects.images, self.outcome_of_object == Outcome.RIGHT),
            "confused": count(self.objects.images, self.outcome_of_object == Outcome.CONFUSED),
            "missed": count(self.objects.images, self.outcome_of_object == Outcome.UNMATCHED),
            "false": count(self.finds.images, self.outcome_of_find == Outcome.UNMATCHED),
        }

    def image(self, index: int) -> ImageMatches:
        """Objects, finds and pairs of the sample of that index."""
        objects, finds = (np.flatnonzero(side.images == index) for side in (self.objects, self.finds))
        paired = finds[self.match_of_find[finds] != NOTHING]
        return ImageMatches(objects, finds, np.stack([self.match_of_find[paired], paired], axis=1))


class Matcher:
    """Pairs the detections of an evaluation with the ground truth, for any score threshold.

    A detection and an object can be a pair from an IoU of `iou` on; each belongs to one pair at most. First every class
    is paired for itself as COCO does: the detections by falling score, each taking the free object of its own class
    that it overlaps most (of several alike the last one; detections of one score in the order they came in). So
    recall and precision are those behind the AP. What is then free on both sides is paired the same way whatever its
    class: those are the confusions.

    The published confusion matrices differ, and here is why this one does. Ultralytics pairs by falling IoU without
    looking at classes, so that of two detections of one object, of the right class and of a wrong one, the tighter box
    decides whether the object counts as confused; `supervision` prefers pairs of one class, as is done here: an object
    that the user is shown under its own name was found, and the second box upon it is a false find.

    Crowd regions (VOC: difficult objects) are neither missed nor found. As in COCO, a detection of that class is
    ignored if it found no object and at least `iou` of its own area lies inside; one of another class is a false find.

    Detections of unknown images and categories are left out, as COCO's evaluation does.

    Args:
        dataset: the ground truth.
        detections: entries of a COCO results file, see `dyzoo.evaluation.Evaluation.detections`.
        iou: least overlap of a pair.
    """

    def __init__(self, dataset: DetectionDataset, detections: Sequence[Mapping[str, Any]], iou: float = 0.5) -> None:
        self.num_images, self.num_classes = len(dataset), len(dataset.labels)
        self.objects = _objects(dataset)
        self.finds = _finds(dataset, detections)
        finds, objects, overlaps, self._nearest, self._nearest_own = _overlaps(self.finds, self.objects, iou)
        # By falling score, of one detection by falling overlap, of one overlap the last object: the order of pairing.
        order = np.lexsort((-objects, -overlaps, finds))
        finds, objects = finds[order], objects[order]
        own = self.finds.labels[finds] == self.objects.labels[objects]
        crowd = self.objects.crowd[objects]
        # Pairs of one class do not depend on the threshold: a detection takes from those below it only.
        self._own_match = np.full(len(self.finds.scores), NOTHING)
        free = np.ones(len(self.objects.labels), bool)
        _pair_up(finds[own & ~crowd], objects[own & ~crowd], self._own_match, free)
        inside = np.zeros(len(self.finds.scores), bool)
        inside[finds[own & crowd]] = True
        self._ignored = inside & (self._own_match == NOTHING)
        self._others = finds[~own & ~crowd], objects[~own & ~crowd]

    def best_threshold(self) -> Threshold | None:
        """The score at which F1, averaged over the classes that have objects, is highest.

        Every score that occurs is tried. Of several that are equally good the highest is taken, and of all numbers that
        keep the same detections the one with the fewest decimals. None if no object is found at any score.
        """
        gains = np.zeros(len(self.finds.scores))  # what each detection adds to the sum of F1 over the classes
        with_objects = np.flatnonzero(self._objects_of_class).tolist()
        for label in with_objects:
            places, f1 = self._f1_of_class(label)
            gains[places] = np.diff(f1, prepend=0.0)
        return _highest(self.finds.scores, np.cumsum(gains) / max(len(with_objects), 1))

    def best_thresholds(self) -> list[Threshold | None]:
        """The score of each class at which its own F1 is highest, as `best_threshold` chooses; None without objects."""
        best: list[Threshold | None] = []
        for label in range(self.num_classes):
            places, f1 = self._f1_of_class(label)
            best.append(_highest(self.finds.scores[places], f1) if self._objects_of_class[label] else None)
        return best

    @property
    def _objects_of_class(self) -> np.ndarray:
        return np.bincount(self.objects.labels[~self.objects.crowd], minlength=self.num_classes)

    def _f1_of_class(self, label: int) -> tuple[np.ndarray, np.ndarray]:
        """Places of a class's detections in `finds`, and its F1 down to each of them."""
        places = np.flatnonzero((self.finds.labels == label) & ~self._ignored)
        right = np.cumsum(self._own_match[places] != NOTHING)
        return places, 2 * right / (np.arange(1, len(places) + 1) + self._objects_of_class[label])

    def at(self, threshold: float) -> Matches:
        """The pairs among the detections with a score of at least `threshold`."""
        count = int(np.searchsorted(-self.finds.scores, -threshold, side="right"))
        match_of_find = self._own_match[:count].copy()
        free = ~self.objects.crowd
        free[match_of_find[match_of_find != NOTHING]] = False
        finds, objects = self._others
        open_ = (finds < count) & ~self._ignored[finds] & (self._own_match[finds] == NOTHING) & free[objects]
        _pair_up(finds[open_], objects[open_], match_of_find, free)

        paired = np.flatnonzero(match_of_find != NOTHING)
        match_of_object = np.full(len(free), NOTHING)
        match_of_object[match_of_find[paired]] = paired
        outcome_of_find = np.full(count, Outcome.UNMATCHED, np.int64)
        outcome_of_find[self._ignored[:count]] = Outcome.IGNORED
        same = self.objects.labels[match_of_find[paired]] == self.finds.labels[paired]
        outcome_of_find[paired] = np.where(same, Outcome.RIGHT, Outcome.CONFUSED)
        outcome_of_object = np.where(self.objects.crowd, Outcome.IGNORED, Outcome.UNMATCHED).astype(np.int64)
        outcome_of_object[match_of_find[paired]] = outcome_of_find[paired]
        return Matches(
            self.objects,
            self.finds.first(count),
            match_of_object,
            match_of_find,
            outcome_of_object,
            outcome_of_find,
            self._nearest[:count],
            self._nearest_own[:count],
            self.num_images,
            self.num_classes,
        )


def _objects(dataset: DetectionDataset) -> Objects:
    samples = dataset.samples
    corners = np.concatenate([np.zeros((0, 4)), *(sample.boxes_xyxy.astype(np.float64) for sample in samples)])
    return Objects(
        images=np.repeat(np.arange(len(samples)), [len(sample.labels) for sample in samples]),
        labels=np.concatenate([np.zeros(0, np.int64), *(sample.labels for sample in samples)]),
        boxes_xywh=np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]]),
        crowd=np.concatenate([np.zeros(0, bool), *(sample.crowd for sample in samples)]),
    )


def _finds(dataset: DetectionDataset, detections: Sequence[Mapping[str, Any]]) -> Finds:
    image_of = {sample.image_id: index for index, sample in enumerate(dataset.samples)}
    label_of = {category_id: label for label, category_id in enumerate(dataset.category_ids)}
    known = [each for each in detections if each["image_id"] in image_of and each["category_id"] in label_of]
    scores = np.array([each["score"] for each in known], dtype=np.float64)
    order = np.argsort(-scores, kind="stable")
    return Finds(
        images=np.array([image_of[each["image_id"]] for each in known], dtype=np.int64)[order],
        labels=np.array([label_of[each["category_id"]] for each in known], dtype=np.int64)[order],
        boxes_xywh=np.array([each["bbox"] for each in known], dtype=np.float64).reshape(-1, 4)[order],
        scores=scores[order],
    )


def _overlaps(
    finds: Finds, objects: Objects, iou: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Positions and IoU of all pairs that overlap enough, and each detection's highest IoU, with all and with its own.

    The IoU is pycocotools': with a crowd region, the share of the detection that lies inside it.
    """
    nearest, nearest_own = np.zeros(len(finds.scores)), np.zeros(len(finds.scores))
    pairs: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    by_image = np.argsort(finds.images, kind="stable")
    images, starts = np.unique(finds.images[by_image], return_index=True)
    first, last = (np.searchsorted(objects.images, images, side=side) for side in ("left", "right"))
    for rows, start, stop in zip(np.split(by_image, starts[1:]) if len(images) else [], first, last, strict=True):
        if start == stop:
            continue
        crowd = objects.crowd[start:stop]
        overlaps = mask.iou(finds.boxes_xywh[rows], objects.boxes_xywh[start:stop], crowd.tolist())
        row, column = np.nonzero(overlaps >= iou)
        pairs.append((rows[row], column + start, overlaps[row, column]))
        real = np.where(crowd, 0.0, overlaps)
        own = finds.labels[rows, None] == objects.labels[None, start:stop]
        nearest[rows] = real.max(axis=1)
        nearest_own[rows] = np.where(own, real, 0.0).max(axis=1)
    empty = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    rows, columns, values = (np.concatenate(parts) for parts in zip(empty, *pairs, strict=True))
    return rows, columns, values, nearest, nearest_own


def _pair_up(finds: np.ndarray, objects: np.ndarray, match_of_find: np.ndarray, free: np.ndarray) -> None:
    """Go through possible pairs in this order and enter those that are free on both sides into both arrays."""
    for find, target in zip(finds.tolist(), objects.tolist(), strict=True):
        if free[target] and match_of_find[find] == NOTHING:
            match_of_find[find] = target
            free[target] = False


def _highest(scores: np.ndarray, f1: np.ndarray) -> Threshold | None:
    """The threshold of the highest F1 among those down to each of the falling scores; None where all are 0."""
    complete = np.append(scores[1:] < scores[:-1], True)[: len(scores)]  # a threshold keeps all of one score
    f1 = np.where(complete, f1, 0.0)
    if not len(scores) or f1.max() <= _TIED:
        return None
    best = int(np.flatnonzero(f1 >= f1.max() - _TIED)[0])
    below = float(scores[best + 1]) if best + 1 < len(scores) else 0.0
    return Threshold(_roundest(below, float(scores[best])), float(f1[best]))


def _roundest(below: float, score: float) -> float:
    """The number in (below, score] with the fewest decimals, of several such the highest."""
    for decimals in range(1, 16):
        rounded = math.floor(score * 10**decimals) / 10**decimals
        if below < rounded <= score:
            return rounded
    return score
