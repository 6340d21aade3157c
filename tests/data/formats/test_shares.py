"""Boxes in shares of their image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dyzoo.data import check_dataset, open_dataset
from dyzoo.errors import DatasetError
from tests.data.data_builders import SIZE, annotation, coco_tables, write_coco, write_voc

SHARES = "boxes in shares of their image instead of pixels, taken as such"


def test_shares_of_coco_become_pixels(tmp_path: Path) -> None:
    boxes = [[0.25, 0.1, 0.5, 0.2], [0, 0, 1, 1], [0.5, 0.5, 0.505, 0.2], [0, 0, 0, 0]]
    annotations = [annotation(id=n, bbox=box, area=0.1) for n, box in enumerate(boxes)]
    write_coco(tmp_path, coco_tables(annotations=annotations))
    sample = open_dataset(tmp_path).samples[0]
    np.testing.assert_allclose(sample.boxes_xyxy, [[10, 3, 30, 9], [0, 0, 40, 30], [20, 15, 40, 21]], rtol=1e-6)
    assert sample.areas_px2 == pytest.approx([120, 1200, 120])
    notes = {note.split(":")[0]: note for note in open_dataset(tmp_path).notes}
    assert notes[SHARES].startswith(f"{SHARES}: 4 (a.jpg at 0.25 0.1 0.75 0.3")
    assert notes.keys() == {SHARES, "boxes without area, dropped"}
    (finding,) = (each for each in check_dataset(tmp_path).findings if each.kind == SHARES)
    assert finding.count == 4
    assert finding.images == (tmp_path / "train" / "a.jpg",)


def test_shares_of_voc_become_pixels(tmp_path: Path) -> None:
    dataset = open_dataset(write_voc(tmp_path, {"a": [("cat", (0.25, 0.1, 0.75, 0.3))], "b": []}))
    np.testing.assert_allclose(dataset.samples[0].boxes_xyxy, [[10, 3, 30, 9]], rtol=1e-6)
    assert dataset.notes == [f"{SHARES}: 1 (a.jpg at 0.25 0.1 0.75 0.3)"]


def test_a_single_box_in_pixels_keeps_all_others_in_pixels(tmp_path: Path) -> None:
    annotations = [annotation(id=n, bbox=box) for n, box in enumerate([[0.2, 0.2, 0.5, 0.5], [0, 0, *SIZE]])]
    dataset = open_dataset(write_coco(tmp_path, coco_tables(annotations=annotations)))
    np.testing.assert_allclose(dataset.samples[0].boxes_xyxy, [[0.2, 0.2, 0.7, 0.7], [0, 0, *SIZE]], rtol=1e-6)
    assert dataset.notes == []


def test_shares_of_something_else_are_refused_in_one_line(tmp_path: Path) -> None:
    centres = [[0.5, 0.5, 0.9, 0.8], [0.8, 0.2, 0.3, 0.2], [0.1, 0.1, 0.1, 0.1]]
    annotations = [annotation(id=n, bbox=box) for n, box in enumerate(centres)]
    with pytest.raises(
        DatasetError, match=r"train\.json: boxes are numbers from 0 to 1.*2 of 3 reach over.*pixels"
    ) as caught:
        open_dataset(write_coco(tmp_path, coco_tables(annotations=annotations)))
    assert "\n" not in str(caught.value)
