"""ATSS assignment against a slow version of its own, and in the cases that break fast ones."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from torch import Tensor

from dyzoo.model.heads.anchors import AnchorGrid, nearest_positions
from dyzoo.model.heads.assignment import assign_atss
from dyzoo.model.heads.losses import BACKGROUND

CPU = torch.device("cpu")


def grids_of(shapes: list[tuple[int, int]], offset: float = 0.5, first_stride_px: int = 8) -> list[AnchorGrid]:
    strides = [first_stride_px * 2**level for level in range(len(shapes))]
    return [AnchorGrid(h, w, stride, 8.0 * stride, offset) for (h, w), stride in zip(shapes, strides, strict=True)]


PYRAMID = grids_of([(13, 19), (7, 10), (4, 5), (2, 3), (1, 2)])


def random_objects(count: int, seed: int, width_px: float = 150, height_px: float = 100) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.rand(count, 2, generator=generator) * torch.tensor([width_px, height_px])
    half_sizes = torch.exp(torch.rand(count, 2, generator=generator) * 4.5) / 2
    return torch.cat([centers - half_sizes, centers + half_sizes], dim=1)


def assign_slowly(objects: list[list[float]], grids: list[AnchorGrid], num_candidates: int) -> list[int]:
    """Algorithm 1 of the paper, one anchor and one object at a time, in double precision."""
    levels = []
    for grid in grids:
        half = grid.side_px / 2
        centers = [
            ((column + grid.center_offset) * grid.stride_px, (row + grid.center_offset) * grid.stride_px)
            for row in range(grid.height)
            for column in range(grid.width)
        ]
        levels.append([(x, y, (x - half, y - half, x + half, y + half)) for x, y in centers])
    best: dict[int, tuple[float, int]] = {}
    for index, (x1, y1, x2, y2) in enumerate(objects):
        candidates, start = [], 0
        for level in levels:
            distances = sorted(
                (math.hypot(x - (x1 + x2) / 2, y - (y1 + y2) / 2), place) for place, (x, y, _) in enumerate(level)
            )
            candidates += [(start + place, *level[place]) for _, place in distances[:num_candidates]]
            start += len(level)
        overlaps = [slow_iou(anchor, (x1, y1, x2, y2)) for *_, anchor in candidates]
        threshold = statistics.mean(overlaps) + statistics.stdev(overlaps)
        for (place, x, y, _), overlap in zip(candidates, overlaps, strict=True):
            inside = min(x - x1, y - y1, x2 - x, y2 - y) > 0.01
            if overlap >= threshold and inside and overlap > best.get(place, (0.0, -1))[0]:
                best[place] = (overlap, index)
    return [best.get(place, (0.0, BACKGROUND))[1] for place in range(sum(map(len, levels)))]


def slow_iou(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    intersection = max(width, 0) * max(height, 0)
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (first, second)]
    return intersection / (sum(areas) - intersection)


@pytest.mark.parametrize("offset", [0.0, 0.5])
@pytest.mark.parametrize("count", [1, 12, 150])
def test_same_as_the_slow_version_on_a_pyramid(count: int, offset: float) -> None:
    grids = grids_of([(13, 19), (7, 10), (4, 5), (2, 3), (1, 2)], offset)
    objects = random_objects(count, seed=count)
    assert assign_atss(objects, grids, 9).tolist() == assign_slowly(objects.tolist(), grids, 9)


@pytest.mark.parametrize("shapes", [[(12, 19)], [(1, 30)], [(2, 2)], [(5, 3), (3, 2)]])
@pytest.mark.parametrize("num_candidates", [2, 9])
def test_same_as_the_slow_version_on_few_and_small_levels(shapes: list[tuple[int, int]], num_candidates: int) -> None:
    grids = grids_of(shapes)
    objects = random_objects(30, seed=5)
    assert assign_atss(objects, grids, num_candidates).tolist() == assign_slowly(
        objects.tolist(), grids, num_candidates
    )


def test_without_objects_every_anchor_is_background() -> None:
    assigned = assign_atss(torch.zeros(0, 4), PYRAMID, 9)
    assert assigned.shape == (sum(map(len, PYRAMID)),)
    assert assigned.dtype == torch.int64
    assert (assigned == BACKGROUND).all()


def test_objects_without_area_or_far_outside_claim_nothing() -> None:
    objects = torch.tensor([[40.0, 40.0, 40.0, 80.0], [20.0, 20.0, 20.0, 20.0], [1000.0, 1000.0, 1100.0, 1100.0]])
    assert (assign_atss(objects, PYRAMID, 9) == BACKGROUND).all()


def test_a_lone_anchor_is_positive_though_one_candidate_has_no_deviation() -> None:
    assigned = assign_atss(torch.tensor([[0.0, 0.0, 8.0, 8.0]]), grids_of([(1, 1)]), 9)
    assert assigned.tolist() == [0]


def test_small_objects_whose_candidates_all_overlap_equally_are_not_lost_to_rounding() -> None:
    grid = grids_of([(20, 20)])
    generator = torch.Generator().manual_seed(0)
    sides = 9 + 20 * torch.rand(200, 1, generator=generator)  # inside each of the nine 64 px anchors around
    for side in sides:
        objects = torch.cat([80 - side / 2, 80 - side / 2, 80 + side / 2, 80 + side / 2])[None]
        assert (assign_atss(objects, grid, 9) == 0).any()


def test_an_anchor_wanted_by_equal_objects_goes_to_the_first() -> None:
    objects = torch.tensor([[10.0, 10.0, 70.0, 60.0]]).repeat(3, 1)
    assigned = assign_atss(objects, PYRAMID, 9)
    assert set(assigned.tolist()) == {0, BACKGROUND}


def test_the_order_of_the_objects_does_not_matter() -> None:
    objects = random_objects(60, seed=8)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    straight, shuffled = assign_atss(objects, PYRAMID, 9), assign_atss(objects[order], PYRAMID, 9)
    assert ((straight == BACKGROUND) == (shuffled == BACKGROUND)).all()
    positive = straight != BACKGROUND
    assert (order[shuffled[positive]] == straight[positive]).all()


def test_ten_thousand_objects_in_one_image() -> None:
    grids = grids_of([(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)])
    objects = random_objects(10_000, seed=9, width_px=1344, height_px=800)
    assigned = assign_atss(objects, grids, 9)
    positive = assigned != BACKGROUND
    centers = torch.cat([grid.boxes(CPU) for grid in grids]).unflatten(1, (2, 2)).mean(dim=1)[positive]
    owners = objects[assigned[positive]]
    assert positive.sum() > 1000
    assert ((centers > owners[:, :2]) & (centers < owners[:, 2:])).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 25), (3, 2), (31, 17)])
@pytest.mark.parametrize("count", [1, 4, 9])
def test_nearest_positions_are_as_near_as_a_full_search_finds(shape: tuple[int, int], count: int) -> None:
    grid = AnchorGrid(*shape, stride_px=8, side_px=64.0, center_offset=0.5)
    points = torch.rand(50, 2, generator=torch.Generator().manual_seed(3)) * 400 - 100  # some outside the grid
    points[:10] = points[:10].div(8).round() * 8  # midway between positions, where distances are equal
    centers = grid.boxes(CPU).unflatten(1, (2, 2)).mean(dim=1)
    distances = torch.cdist(points, centers, compute_mode="donot_use_mm_for_euclid_dist")
    positions = nearest_positions(points, grid, count)
    assert all(len(set(row)) == min(count, len(grid)) for row in positions.tolist())
    nearest = distances.sort(dim=1).values[:, :count]
    torch.testing.assert_close(distances.gather(1, positions), nearest)
