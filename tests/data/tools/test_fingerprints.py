"""Which files show the same picture, and how a split deals with it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dyzoo.data import Sample
from dyzoo.data.tools import fingerprints
from dyzoo.data.tools.splitting import split_samples


def unit_rows(rng: np.random.Generator, count: int) -> np.ndarray:
    rows = rng.normal(size=(count, 256)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("rows_at_once", [3, 4, 100])
def test_the_nearest_is_found_across_blocks(rows_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "_ROWS_AT_ONCE", rows_at_once)
    rows = unit_rows(np.random.default_rng(0), 10)
    rows[7], rows[9], rows[5] = rows[2], rows[2], rows[4]
    rows[0] = 0
    assert fingerprints.nearest(rows, None, "").tolist() == [-1, -1, -1, -1, -1, 4, -1, 2, -1, 2]
    assert fingerprints.nearest(rows[7:], rows[:5], "").tolist() == [2, -1, 2]
    assert fingerprints.nearest(rows[:0], rows, "").tolist() == []


def test_files_are_grouped_by_their_bytes(tmp_path: Path) -> None:
    contents = {"a": b"same", "b": b"else", "c": b"same", "d": b"longer"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / name for name in "dcba"]
    groups = fingerprints.group_by_content([*paths, paths[0]])
    assert [[path.name for path in group] for group in groups] == [["d"], ["c", "a"], ["b"]]


def test_every_class_is_split_alike(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    samples = []
    for index in range(100):
        path = tmp_path / str(index)
        path.write_bytes(rng.bytes(8))
        # class 0 in ten images, class 1 in every other one, class 2 in all but the last ten
        labels = [label for label, there in enumerate((index % 10 == 3, index % 2 == 0, index < 90)) if there]
        boxes = np.tile(np.float32([0, 0, 1, 1]), (len(labels), 1))
        crowd = np.zeros(len(labels), dtype=np.bool_)
        samples.append(Sample(path, 8, 8, boxes, np.array(labels, dtype=np.int64), crowd, index))
    for seed in range(5):
        train, val = split_samples(samples, 0.2, seed)
        assert sorted(sample.image_id for sample in (*train, *val)) == list(range(100))
        assert abs(len(val) - 20) <= 1
        shown = Counter(label for sample in val for label in sample.labels.tolist())
        assert [abs(shown[label] - wanted) <= 1 for label, wanted in enumerate((2, 10, 18))] == [True] * 3
        assert [sample.image_id for sample in val] == sorted(sample.image_id for sample in val)
