"""Small data sets and detections, written down by hand or drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dyzoo.data import DetectionDataset, Sample
from dyzoo.evaluation import Evaluation
from dyzoo.evaluation.metrics import measure
from dyzoo.evaluation.scorers import load_scorer

Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels
Object = tuple[Box, int] | tuple[Box, int, bool]  # box, label, whether it is a crowd region
Find = tuple[Box, int, float]  # box, label, score

SIZE_PX = (200, 150)  # (width, height)


def sample(objects: Sequence[Object], image_id: int = 1, path: Path = Path("1.png")) -> Sample:
    return Sample(
        image_path=path,
        width_px=SIZE_PX[0],
        height_px=SIZE_PX[1],
        boxes_xyxy=np.array([each[0] for each in objects], dtype=np.float32).reshape(-1, 4),
        labels=np.array([each[1] for each in objects], dtype=np.int64),
        crowd=np.array([len(each) > 2 and bool(each[2]) for each in objects], dtype=bool),
        image_id=image_id,
    )


def dataset(images: Sequence[Sequence[Object]], labels: Sequence[str], folder: Path = Path()) -> DetectionDataset:
    """Image ids are 10, 11, ..., category ids 100, 99, ...: neither is an index."""
    samples = [sample(objects, 10 + index, folder / f"{index}.png") for index, objects in enumerate(images)]
    return DetectionDataset(samples, labels, [100 - index for index in range(len(labels))])


def results(images: Sequence[Sequence[Find]]) -> list[dict[str, Any]]:
    """Entries of a COCO results file for `dataset`."""
    return [
        {"image_id": 10 + index, "category_id": 100 - label, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
        for index, finds in enumerate(images)
        for (x1, y1, x2, y2), label, score in finds
    ]


def evaluation(data: DetectionDataset, found: list[dict[str, Any]], notes: tuple[str, ...] = ()) -> Evaluation:
    """An evaluation as `dyzoo.evaluate` would give it of these detections."""
    measured = measure(data, found, load_scorer("pycocotools"))
    return Evaluation(*measured, detections=found, num_images=len(data), notes=notes)


def random_case(
    seed: int, images: int = 12, classes: int = 3, objects: int = 5, decimals: int = 1
) -> tuple[DetectionDataset, list[dict[str, Any]]]:
    """Overlapping objects, some of them crowd regions, and finds that are moved, doubled, confused and made up.

    Scores have so many decimals, so that some are equal.
    """
    random = np.random.default_rng(seed)
    truth: list[list[Object]] = []
    finds: list[list[Find]] = []
    for _ in range(images):
        corners = random.integers(0, 100, (random.integers(0, objects + 1), 2))
        sides = random.integers(15, 45, corners.shape)
        boxes = np.hstack([corners, corners + sides])
        labels = random.integers(0, classes, len(boxes)).tolist()
        truth.append(
            [
                (tuple(box), label, bool(random.random() < 0.15))
                for box, label in zip(boxes.tolist(), labels, strict=True)
            ]
        )
        found: list[Find] = []
        for box, label in zip(boxes, labels, strict=True):
            for _ in range(random.integers(0, 4)):
                moved = box + random.integers(-6, 7, 4)
                seen = label if random.random() < 0.7 else int(random.integers(classes))
                found.append((tuple(moved.tolist()), seen, round(float(random.uniform(0.05, 1)), decimals)))
        x, y = random.integers(0, 100, 2).tolist()
        found.append(((x, y, x + 30, y + 30), int(random.integers(classes)), round(float(random.random()), decimals)))
        finds.append(found)
    return dataset(truth, [f"class {k}" for k in range(classes)]), results(finds)
