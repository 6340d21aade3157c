"""Lines of label files that may be outlines, or boxes with keypoints."""

from __future__ import annotations

from pathlib import Path

import pytest

from dyzoo.data import open_dataset
from tests.data.data_builders import CAT_LINE, write_lines, write_picture, write_yolo

BOX = [[10, 7.5, 30, 22.5]]  # 0.5 0.5 0.5 0.5 in pixels
KEYPOINTS = "lines of a box and what looks like keypoints, the box taken"


def boxes(folder: Path) -> list[list[float]]:
    return [box for sample in open_dataset(folder).samples for box in sample.boxes_xyxy.tolist()]


@pytest.mark.parametrize(
    "points",
    [
        "0.3 0.3 2 0.6 0.7 2",
        "0.3 0.3 1 0.6 0.7 0",
        "0.3 0.3 2",
        "0.3 0.3 2 0.9 0.9 1",
        "0.3 0.3 1 0.6 0.7 1 0.5 0.5 1",
        "0.3 0.3 0.7 0.7",
        "0.3 0.3 0.7 0.7 0 0",
    ],
)
def test_keypoints_without_a_word_in_the_yaml(points: str, tmp_path: Path) -> None:
    folder = write_yolo(tmp_path, f"0 0.5 0.5 0.5 0.5 {points}")
    dataset = open_dataset(folder)
    assert dataset.samples[0].boxes_xyxy.tolist() == BOX
    assert len(dataset.notes) == 1
    assert dataset.notes[0].startswith(f"{KEYPOINTS}: 1 (a.txt:1")


def test_plain_boxes_between_keypoints_stay(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path, CAT_LINE, "0 0.5 0.5 0.5 0.5 0.3 0.3 2", "0 0.1 0.1 0.1 0.1")
    assert [round(box[0]) for box in boxes(folder)] == [1, 10, 2]


@pytest.mark.parametrize(
    "lines",
    [
        ["0.25 0.5 0.5 0.1 0.75 0.5"],  # a triangle
        ["0.4 0.4 0.6 0.4 0.6 0.6 0.4 0.6", "0.45 0.4 0.55 0.4 0.55 0.5 0.45 0.5"],  # small oriented boxes
        ["0.5 0.4 0.6 0.5 0.5 0.6 0.4 0.5", "0.5 0.3 0.6 0.4 0.5 0.5 0.4 0.4"],  # and turned ones
        ["0.4 0.4 0.5 0.6 0.5 0.3 0.6 0.4 0.3 0.5"],  # five points
        ["0 0 1 0 1 1 0 1 0 0"],  # the whole image, closed
        ["0.5 0.5 0.6 0.5 0.4 0.4 0 0.4 0.3 0"],  # touching two edges
    ],
)
def test_outlines_stay_outlines(lines: list[str], tmp_path: Path) -> None:
    folder = write_yolo(tmp_path, *(f"0 {line}" for line in lines))
    dataset = open_dataset(folder)
    for line, (x1, y1, x2, y2) in zip(lines, boxes(folder), strict=True):
        xs, ys = ([float(text) for text in line.split()[first::2]] for first in (0, 1))
        assert (x1, x2) == pytest.approx((min(xs) * 40, max(xs) * 40))
        assert (y1, y2) == pytest.approx((min(ys) * 30, max(ys) * 30))
    assert KEYPOINTS not in str(dataset.notes)


@pytest.mark.parametrize("place", ["a", "b"])
def test_one_outline_in_a_split_decides_for_all(place: str, tmp_path: Path) -> None:
    """Its line may come before or after those that might be keypoints; what can be no outline is dropped."""
    might_be = ("0 0.5 0.5 0.5 0.5 0.3 0.3 0.7 0.7", "0 0.5 0.5 0.5 0.5 0.3 0.3 2 0.7")
    folder = write_yolo(tmp_path, *(might_be if place == "b" else ["0 0.1 0.1 0.2 0.1 0.2 0.2"]))
    write_picture(folder / "images" / "train" / "b.jpg")
    write_lines(folder / "labels" / "train" / "b.txt", *(might_be if place == "a" else ["0 0.1 0.1 0.2 0.1 0.2 0.2"]))
    dataset = open_dataset(folder)
    assert sorted(box for sample in dataset.samples for box in sample.boxes_xyxy.round(3).tolist()) == [
        [4, 3, 8, 6],
        [12, 9, 28, 21],
    ]
    assert len(dataset.notes) == 1
    assert dataset.notes[0].startswith("label lines with numbers outside 0..1, dropped: 1 (")


def test_lines_that_are_neither_do_not_decide(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path, "0 0.5 0.5 0.5 0.5 0.9", "0 0.5 0.5 0.5 0.5 0.3 0.3 2", "0 0.5 0.5 0.5 0.5 0.3 0.3 7")
    dataset = open_dataset(folder)
    assert dataset.samples[0].boxes_xyxy.tolist() == BOX
    assert [note.split(":")[0] for note in dataset.notes] == [
        "label lines without four numbers behind the class, or an outline of points, dropped",
        KEYPOINTS,
    ]


def test_a_long_line_is_not_shown_as_a_whole(tmp_path: Path) -> None:
    notes = open_dataset(write_yolo(tmp_path, CAT_LINE, "0 " + "0.5 " * 100_001)).notes
    assert len(notes) == 1
    assert len(notes[0]) < 400
