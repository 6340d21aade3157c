"""Tiles of large pictures: they cover, they overlap, they are bounded, and "auto" cuts only what is large."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from dyzoo.config import PreprocessConfig, TrainingScale
from dyzoo.errors import ImageError
from dyzoo.model.sizes import Size
from dyzoo.model.tiles import OVERLAP, check_tiles, tile_grid

CELLS = PreprocessConfig(shortest_edge=320, longest_edge=512, training_scale=TrainingScale((480, 640), 100.0))


@pytest.mark.parametrize("image_size", [(2880, 3840), (4001, 1203), (480, 9000), (3000, 300), (1921, 2003)])
def test_automatic_tiles_cover_the_picture_at_the_scale_of_the_training(image_size: tuple[int, int]) -> None:
    grid = tile_grid(CELLS, image_size, None, "auto")
    assert grid is not None
    assert grid.zoom == pytest.approx(2 / 3)
    for spans, length in ((grid.rows, image_size[0]), (grid.columns, image_size[1])):
        assert spans[0][0] == 0
        assert spans[-1][1] == length
        assert len({stop - start for start, stop in spans}) == 1, "so that they go in one batch"
        assert all(before[1] - after[0] >= 199 for before, after in pairwise(spans)), "two objects wide"


@pytest.mark.parametrize(
    ("image_size", "size", "is_cut"),
    [
        ((480, 640), None, False),
        ((960, 1280), None, False),
        ((1000, 1333), None, True),
        ((1000, 1333), 640, False),
        ((1000, 1333), "native", False),
        ((300, 2000), None, True),
    ],
)
def test_a_picture_is_cut_where_it_would_be_seen_at_less_than_half_the_scale(
    image_size: tuple[int, int], size: Size, is_cut: bool
) -> None:
    assert (tile_grid(CELLS, image_size, size, "auto") is not None) is is_cut


@pytest.mark.parametrize("count", [2, 3, 7])
def test_a_number_makes_so_many_tiles_in_each_direction(count: int) -> None:
    grid = tile_grid(CELLS, (1234, 2345), None, count)
    assert grid is not None
    assert (len(grid.rows), len(grid.columns)) == (count, count)
    assert len(grid.areas()) == count**2
    for spans, length in ((grid.rows, 1234), (grid.columns, 2345)):
        assert (spans[0][0], spans[-1][1]) == (0, length)
        side = spans[0][1] - spans[0][0]
        assert all(before[1] - after[0] >= OVERLAP * side - 2 for before, after in pairwise(spans))


def test_one_tile_is_the_picture_and_small_pictures_are_not_cut_to_shreds() -> None:
    assert tile_grid(CELLS, (480, 640), None, 1) is None
    assert tile_grid(CELLS, (20, 30), None, 50) is None
    grid = tile_grid(CELLS, (64, 100), None, 50)
    assert grid is not None
    assert (len(grid.rows), len(grid.columns)) == (2, 3)


def test_the_number_of_tiles_is_bounded_whatever_a_configuration_says() -> None:
    hostile = replace(CELLS, training_scale=TrainingScale((32, 32), 1.0))
    with pytest.raises(ImageError, match="expected at most 4096"):
        tile_grid(hostile, (10_000, 10_000), None, "auto")
    with pytest.raises(ImageError, match="expected at most 4096"):
        tile_grid(CELLS, (10_000, 10_000), None, 10**9)


@pytest.mark.parametrize("tiles", [0, -1, 1.5, True, "on", None, "3"])
def test_other_settings_are_refused(tiles: Any) -> None:
    with pytest.raises(ValueError, match="expected 'auto', 'off' or a number"):
        check_tiles(tiles, CELLS)


def test_automatic_tiles_need_a_training_scale() -> None:
    with pytest.raises(ValueError, match="no training_scale"):
        check_tiles("auto", replace(CELLS, training_scale=None))
