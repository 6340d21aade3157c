"""Tables of a block: every row written once, weights of means, and reuse."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import torch
from dyhead_kernels.device_cache import DeviceCache
from dyhead_kernels.dyhead_block.layout import LOW, MID, BranchLayout
from dyhead_kernels.dyhead_block.tables import BlockTables, block_tables

SHAPES = ((9, 6), (5, 3), (3, 2))
CPU = torch.device("cpu")


@pytest.mark.parametrize("mode", ["flat", "crop", "resize"])
def test_every_row_of_every_branch_is_in_one_tile(mode: str) -> None:
    plan = BlockTables(BranchLayout(SHAPES), mode, DeviceCache(CPU))
    made = plan.segments.tables(4, 4)
    rows: list[int] = []
    for index, first, end in zip(range(len(plan.branch_levels)), made.first_tile, made.first_tile[1:], strict=False):
        segment = plan.segments.maps[index]
        for which, top, left in made.tiles[first:end].tolist():
            assert which == index
            for y in range(top, min(top + 4, segment.height)):
                for x in range(left, min(left + 4, segment.width)):
                    start = 2 * segment.row_before + segment.row_start + y * segment.width + x
                    rows += (start + image * segment.row_image for image in (0, 1))
    assert sorted(rows) == list(range(2 * plan.rows))


def test_tiles_of_strips_have_every_position_once_and_are_full_but_for_each_weight_s_last() -> None:
    plan = BlockTables(BranchLayout(SHAPES), "flat", DeviceCache(CPU))
    maps, made = plan.segments.maps, plan.segments.strips(4, 4)
    seen: list[tuple[int, int, int]] = []
    for tile, (first, count, piece) in zip(made.places.flatten(2), made.tiles.tolist(), strict=True):
        places = [place for place in tile.T.tolist() if place[1] >= 0]
        sizes = Counter(index for index, _, _ in places)
        assert sorted(sizes) == list(range(first, first + count))
        assert made.piece_sizes[piece : piece + count] == tuple(sizes.values())
        assert len({maps[index].weight for index in sizes}) == 1
        is_last = len(maps) == first + count or maps[first + count].weight != maps[first].weight
        assert is_last or len(places) == 16
        seen += [tuple(place) for place in places]
    every = {(i, y, x) for i, each in enumerate(maps) for y in range(each.height) for x in range(each.width)}
    assert len(seen) == len(every)
    assert set(seen) == every
    assert seen == sorted(seen, key=lambda place: (place[0], place[2] // 4, place[1], place[2]))


def test_pieces_and_their_weights_add_up_for_each_map() -> None:
    plan = BlockTables(BranchLayout(((13, 10), (7, 5), (4, 3), (2, 2), (1, 1))), "flat", DeviceCache(CPU))
    made = plan.segments.strips(2, 4)
    pieces = plan.pieces(made)
    for (branch, _), segment, (first, end) in zip(
        plan.branch_levels, plan.segments.maps, pairwise(made.first_piece), strict=True
    ):
        size, weight = pieces[first:end].sum(dim=0)
        assert size == segment.height * segment.width
        assert weight == pytest.approx(1, abs=1e-6)
        if branch in (MID, LOW):
            assert (pieces[first:end] > 0).all()


def test_a_plan_is_made_once() -> None:
    layout = BranchLayout(SHAPES)
    assert block_tables(CPU, layout, "flat") is block_tables(CPU, BranchLayout(SHAPES), "flat")
    assert block_tables(CPU, layout, "flat") is not block_tables(CPU, layout, "crop")
