"""Boxes that lie on top of each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dyzoo.data import check_dataset
from dyzoo.data.tools import check
from dyzoo.data.tools.coinciding import coinciding
from dyzoo.model.boxes import pairwise_iou
from tests.data.data_builders import annotation, coco_tables, write_coco


@pytest.mark.parametrize("count", [0, 1, 2, 300, 1200])
def test_pairs_are_those_of_all_ious(count: int) -> None:
    random = np.random.default_rng(count)
    low = random.integers(0, 60, (count, 2))
    boxes = np.concatenate([low, low + random.integers(20, 40, (count, 2))], axis=1).astype(np.float32)
    iou = pairwise_iou(*(torch.from_numpy(boxes),) * 2).numpy()
    first = [
        (int(np.argmax(iou[:later, later] > 0.9)), later) for later in range(count) if (iou[:later, later] > 0.9).any()
    ]
    assert coinciding(boxes, 0.9) == first
    assert bool(first) == (count > 2)


def test_of_three_that_coincide_two_are_named() -> None:
    assert coinciding(np.array([[5, 5, 50, 50], [90, 0, 99, 9], [5, 5, 50, 51], [5, 6, 50, 50]]), 0.9) == [
        (0, 2),
        (0, 3),
    ]


def test_a_crowded_image_is_checked_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "_MOST_COMPARED", 3)
    boxes = [[1, 1, 20, 20], [22, 1, 15, 20], [1, 1, 20, 20.5], [1, 1, 20, 20.6]]
    annotations = [annotation(id=n, bbox=box) for n, box in enumerate(boxes)]
    findings = {
        str(each) for each in check_dataset(write_coco(tmp_path, coco_tables(annotations=annotations))).findings
    }
    assert "train: boxes of one class that almost coincide: 1 (cat in a.jpg at 1 1 21 21.5)" in findings
    assert "train: images of more than 3 objects, of which only so many are compared: 1 (4 in a.jpg)" in findings
