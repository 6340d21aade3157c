"""Tables of a block: every row written once, weights of means, and reuse."""

from __future__ import annotations

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


def test_weights_of_tiles_add_up_to_one_for_each_map() -> None:
    plan = BlockTables(BranchLayout(((13, 10), (7, 5), (4, 3), (2, 2), (1, 1))), "flat", DeviceCache(CPU))
    made = plan.segments.tables(2, 4)
    weights = plan.tile_mean_weights(made)
    for (branch, _), (first, end) in zip(plan.branch_levels, pairwise(made.first_tile), strict=True):
        assert weights[first:end].sum() == pytest.approx(1, abs=1e-6)
        if branch in (MID, LOW):
            assert (weights[first:end] > 0).all()


def test_a_plan_is_made_once() -> None:
    layout = BranchLayout(SHAPES)
    assert block_tables(CPU, layout, "flat") is block_tables(CPU, BranchLayout(SHAPES), "flat")
    assert block_tables(CPU, layout, "flat") is not block_tables(CPU, layout, "crop")
