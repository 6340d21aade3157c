"""Anchor grids: sizes, order and places."""

from __future__ import annotations

import math

import pytest
import torch

from dyzoo.model.heads.anchors import AnchorGrid, all_boxes, anchor_grids

CPU = torch.device("cpu")


def test_a_square_anchor_sits_around_each_position_in_row_major_order() -> None:
    grid = AnchorGrid(height=2, width=3, stride_px=8, side_px=20.0, center_offset=0.5)
    assert len(grid) == 6
    centers = [(4, 4), (12, 4), (20, 4), (4, 12), (12, 12), (20, 12)]
    expected = torch.tensor([[x - 10.0, y - 10.0, x + 10.0, y + 10.0] for x, y in centers])
    torch.testing.assert_close(grid.boxes(CPU), expected, rtol=0, atol=0)


def test_ratios_are_height_over_width_at_the_same_area() -> None:
    grid = AnchorGrid(1, 1, stride_px=8, side_px=32.0, center_offset=0.0, aspect_ratios=(0.25, 1.0, 4.0))
    expected = [[-32.0, -8.0, 32.0, 8.0], [-16.0, -16.0, 16.0, 16.0], [-8.0, -32.0, 8.0, 32.0]]
    torch.testing.assert_close(grid.boxes(CPU), torch.tensor(expected))


def test_scales_are_outside_and_ratios_inside() -> None:
    grid = AnchorGrid(1, 1, stride_px=8, side_px=32.0, center_offset=0.0, octave_scales=2, aspect_ratios=(0.25, 1.0))
    root = math.sqrt(2)
    expected = [
        [-32.0, -8.0, 32.0, 8.0],
        [-16.0, -16.0, 16.0, 16.0],
        [-32.0 * root, -8.0 * root, 32.0 * root, 8.0 * root],
        [-16.0 * root, -16.0 * root, 16.0 * root, 16.0 * root],
    ]
    torch.testing.assert_close(grid.boxes(CPU), torch.tensor(expected))


def test_sides_are_not_rounded() -> None:
    boxes = AnchorGrid(1, 1, 8, side_px=32.0, center_offset=0.0, aspect_ratios=(0.5,)).boxes(CPU)
    assert boxes[0, 2].item() == pytest.approx(32 * math.sqrt(2) / 2, rel=1e-6)
    assert boxes[0, 3].item() == pytest.approx(32 / math.sqrt(2) / 2, rel=1e-6)


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_every_position_has_all_anchors_before_the_next(offset: float) -> None:
    settings = {"octave_scales": 3, "aspect_ratios": (0.5, 1.0, 2.0)}
    (grid,) = anchor_grids([torch.zeros(2, 5, 3, 4)], (16,), scale=4.0, center_offset=offset, **settings)
    assert len(grid) == 3 * 4 * 9
    expected = []
    for row in range(3):
        for column in range(4):
            for scale in range(3):
                for ratio in (0.5, 1.0, 2.0):
                    side = 64 * 2 ** (scale / 3)
                    width, height = side / math.sqrt(ratio), side * math.sqrt(ratio)
                    x, y = (column + offset) * 16, (row + offset) * 16
                    expected.append([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    torch.testing.assert_close(grid.boxes(CPU), torch.tensor(expected))


def test_levels_follow_one_another_from_fine_to_coarse() -> None:
    grids = anchor_grids([torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 1, 1)], (8, 16), scale=1.0, center_offset=0.5)
    x1, _, x2, _ = all_boxes(grids, CPU).unbind(1)
    assert (x2 - x1).tolist() == [8.0] * 4 + [16.0]


def test_every_map_needs_its_stride() -> None:
    with pytest.raises(ValueError, match="zip"):
        anchor_grids([torch.zeros(1, 1, 2, 2)], (8, 16), scale=1.0, center_offset=0.5)
