"""Pictures, ground truth and predictors that the tests of evaluation share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dyzoo.data import DetectionDataset, Sample
from dyzoo.images.detections import Detections

Objects = Sequence[tuple[list[float], int]]  # (box_xyxy, label) pairs
Answer = Callable[[int], list[tuple[list[float], float, int]]]  # index of an image -> (box_xyxy, score, label)

SIZE = (200, 150)  # (width, height)
LABELS = ("cat", "dog", "bird")
TRUTH: list[Objects] = [
    [([10, 10, 30, 30], 0), ([50, 50, 110, 100], 1)],
    [([0, 0, 150, 140], 1)],
    [],
    [([20, 30, 60, 90], 0), ([100, 20, 190, 140], 0)],
]


def make_dataset(
    folder: Path,
    truth: Sequence[Objects] = TRUTH,
    labels: tuple[str, ...] = LABELS,
    crowd: frozenset[tuple[int, int]] = frozenset(),
    category_ids: Sequence[int] | None = None,
) -> DetectionDataset:
    """Pictures whose red channel is their index; `crowd` holds (image, object) index pairs."""
    samples = []
    for index, objects in enumerate(truth):
        path = folder / f"{index}.png"
        Image.new("RGB", SIZE, (index, 0, 0)).save(path)
        samples.append(
            Sample(
                image_path=path,
                width_px=SIZE[0],
                height_px=SIZE[1],
                boxes_xyxy=np.array([box for box, _ in objects], dtype=np.float32).reshape(-1, 4),
                labels=np.array([label for _, label in objects], dtype=np.int64),
                crowd=np.array([(index, number) in crowd for number in range(len(objects))], dtype=bool),
                image_id=1000 - 7 * index,
            )
        )
    return DetectionDataset(samples, labels, category_ids)


class Oracle:
    """Answers for each picture what the test says."""

    def __init__(self, answer: Answer, labels: tuple[str, ...] = LABELS) -> None:
        self.answer = answer
        self.labels = labels

    def predict(
        self, images: Any, threshold: float = 0.3, size: object = None, batch_size: int = 1
    ) -> list[Detections]:
        results = []
        for image in images:
            found = [entry for entry in self.answer(image.getpixel((0, 0))[0]) if entry[1] >= threshold]
            results.append(
                Detections(
                    torch.tensor([box for box, _, _ in found], dtype=torch.float32).reshape(-1, 4),
                    torch.tensor([score for _, score, _ in found], dtype=torch.float32),
                    torch.tensor([label for _, _, label in found], dtype=torch.int64),
                    self.labels,
                    (image.height, image.width),
                )
            )
        return results


def the_truth(index: int) -> list[tuple[list[float], float, int]]:
    return [(box, 0.9, label) for box, label in TRUTH[index]]


def noisy(index: int) -> list[tuple[list[float], float, int]]:
    """Moved boxes of every score, some under the usual threshold, some of the wrong class, and some of nothing."""
    random = np.random.default_rng(index)
    found = [(list(random.normal(box, 3)), random.uniform(), label) for box, label in TRUTH[index]]
    for _ in range(4):
        (x1, x2), (y1, y2) = np.sort(random.uniform(0, 150, (2, 2))).tolist()
        found.append(([x1, y1, x2, y2], random.uniform(), int(random.integers(3))))
    return found


def random_dataset(
    seed: int,
    images: int = 12,
    classes: int = 5,
    objects: int = 6,
    crowd_share: float = 0.1,
    category_ids: Sequence[int] | None = None,
    whole: bool = False,
) -> DetectionDataset:
    """Ground truth of all sizes without picture files; the last class has no object, image ids go down.

    With `whole`, squares of 10 px at whole pixels that share many an IoU.
    """
    random = np.random.default_rng(seed)
    samples = []
    for index in range(images):
        count = int(random.integers(objects + 1)) if objects else 0
        corners = random.uniform(0, 300, (count, 2))
        sides = random.choice([12, 50, 200], (count, 1)) * random.uniform(0.5, 1.5, (count, 2))
        if whole:
            corners, sides = np.round(corners / 10), np.full((count, 2), 10.0)
        samples.append(
            Sample(
                image_path=Path(f"{index}.png"),
                width_px=600,
                height_px=600,
                boxes_xyxy=np.concatenate([corners, corners + sides], axis=1).astype(np.float32).reshape(-1, 4),
                labels=random.integers(classes - 1, size=count),
                crowd=random.random(count) < crowd_share,
                image_id=int(1000 - 7 * index),
            )
        )
    return DetectionDataset(samples, [f"class {label}" for label in range(classes)], category_ids)


def random_detections(
    dataset: DetectionDataset, seed: int, extra: int = 4, ties: bool = False, every: int = 1, whole: bool = False
) -> list[dict[str, Any]]:
    """COCO results: most objects moved a little, some twice, and `extra` of nothing; in every `every`-th image."""
    random = np.random.default_rng(seed)
    results = []
    for sample in dataset.samples[::every]:
        hits = np.repeat(np.arange(len(sample.labels)), random.integers(3, size=len(sample.labels)))
        boxes = sample.boxes_xyxy[hits] + random.normal(0, 4, (len(hits), 4))
        boxes = sample.boxes_xyxy[hits] + random.integers(-3, 4, (len(hits), 4)) if whole else boxes
        labels = np.where(random.random(len(hits)) < 0.8, sample.labels[hits], 0)
        corners = random.uniform(0, 300, (extra, 2))
        nothing = np.concatenate([corners, corners + random.uniform(5, 150, (extra, 2))], axis=1)
        boxes = np.concatenate([boxes, nothing])
        labels = np.concatenate([labels, random.integers(len(dataset.labels), size=extra)])
        scores = random.random(len(labels))
        scores = np.round(scores, 1) if ties else scores
        for (x1, y1, x2, y2), label, score in zip(boxes.tolist(), labels.tolist(), scores.tolist(), strict=True):
            box = [x1, y1, max(x2 - x1, 1.0), max(y2 - y1, 1.0)]
            entry = {"image_id": sample.image_id, "category_id": dataset.category_ids[label], "bbox": box}
            results.append({**entry, "score": score})
    return results
