"""Detections of overlapping tiles: no doubles, no halves, nothing lost."""

from __future__ import annotations

import torch
from torch import Tensor

from dyzoo.model.heads.base import Detected
from dyzoo.model.seams import merge_tiles
from dyzoo.model.tiles import Grid

TWO = Grid(columns=((0, 100), (60, 160)), rows=((0, 100),), zoom=1.0)  # an overlap of 40, margins of 4

Row = tuple[list[float], float, int]


def found(*rows: Row) -> Detected:
    return {
        "boxes": torch.tensor([box for box, _, _ in rows]).reshape(-1, 4),
        "scores": torch.tensor([score for _, score, _ in rows]),
        "labels": torch.tensor([label for _, _, label in rows], dtype=torch.int64),
    }


def merged(*looks: list[Row], grid: Grid = TWO) -> list[Row]:
    answer = merge_tiles([found(*look) for look in looks], grid, 0.6)
    boxes: Tensor = answer["boxes"]
    rows = zip(boxes.tolist(), answer["scores"].tolist(), answer["labels"].tolist(), strict=True)
    return [(box, round(score, 3), label) for box, score, label in rows]


def test_an_object_that_two_tiles_see_is_found_once() -> None:
    both = [[70.0, 10, 90, 30]], [[71.0, 10, 91, 31]]
    assert merged([(both[0][0], 0.6, 0)], [(both[1][0], 0.8, 0)], []) == [(both[1][0], 0.8, 0)]


def test_a_half_loses_against_the_whole_whatever_its_score_and_class() -> None:
    whole = ([80.0, 10, 120, 50], 0.4, 0)
    assert merged([([80.0, 10, 100, 50], 0.9, 1)], [whole], []) == [whole]


def test_a_half_goes_even_where_the_tile_that_sees_all_finds_nothing() -> None:
    assert merged([([85.0, 10, 100, 50], 0.9, 0)], [], []) == []


def test_objects_that_touch_stay_two() -> None:
    rows: list[Row] = [([64.0, 10, 78, 30], 0.9, 0), ([78.0, 10, 92, 30], 0.8, 0)]
    assert merged(rows, rows, []) == rows


def test_objects_of_two_classes_at_one_place_stay_two() -> None:
    first, second = ([70.0, 10, 90, 30], 0.9, 0), ([70.0, 10, 90, 30], 0.8, 1)
    assert merged([first], [second], []) == [first, second]


def test_what_one_tile_finds_twice_stays_as_its_head_left_it() -> None:
    rows: list[Row] = [([10.0, 10, 30, 30], 0.9, 0), ([15.0, 10, 35, 30], 0.8, 0)]
    assert merged(rows, [], []) == rows


def test_an_object_larger_than_the_overlap_is_put_together_of_its_parts() -> None:
    left, right = ([30.0, 10, 100, 50], 0.7, 0), ([60.0, 12, 130, 52], 0.6, 0)
    assert merged([left], [right], []) == [([30.0, 10, 130, 52], 0.7, 0)]


def test_parts_of_objects_that_pass_each_other_are_not_put_together() -> None:
    upper, lower = ([30.0, 10, 100, 30], 0.7, 0), ([60.0, 50, 130, 80], 0.6, 0)
    assert merged([upper], [lower], []) == [upper, lower]


def test_an_object_larger_than_a_tile_is_that_of_the_whole_picture() -> None:
    whole: Row = ([10.0, 10, 150, 90], 0.5, 0)
    assert merged([([10.0, 10, 100, 90], 0.9, 0)], [([60.0, 10, 150, 90], 0.8, 0)], [whole]) == [whole]


def test_a_box_of_the_whole_picture_that_a_tile_sees_entirely_is_the_tiles_affair() -> None:
    assert merged([], [], [([10.0, 10, 50, 50], 0.9, 0)]) == []


def test_a_box_of_the_whole_picture_around_several_objects_is_none() -> None:
    rows: list[Row] = [([20.0, 20, 40, 40], 0.5, 0), ([60.0, 20, 80, 40], 0.4, 0)]
    assert merged(rows, [], [([10.0, 10, 150, 90], 0.7, 0)]) == rows
    other_class: Row = ([10.0, 10, 150, 90], 0.7, 1)
    assert merged(rows, [], [other_class]) == [other_class, *rows]


def test_a_box_at_the_edge_of_the_picture_is_no_part() -> None:
    rows: list[Row] = [([0.0, 0, 20, 20], 0.9, 0), ([140.0, 80, 160, 100], 0.8, 0)]
    assert merged(rows[:1], rows[1:], []) == rows


def test_four_tiles_around_a_corner_find_an_object_once() -> None:
    grid = Grid(columns=((0, 100), (60, 160)), rows=((0, 100), (60, 160)), zoom=1.0)
    parts: list[list[Row]] = [[([70.0, 70, 90, 90], 0.9 - n / 10, 0)] for n in range(4)]
    assert merged(*parts, [], grid=grid) == parts[0]


def test_nothing_found_is_nothing() -> None:
    assert merged([], [], []) == []
