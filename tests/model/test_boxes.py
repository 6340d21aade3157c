"""Box geometry: hand-computed values, round trips and torchvision as the reference."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from dyzoo.model.boxes import (
    MAX_LOG_GROWTH,
    aligned_iou,
    box_areas,
    boxes_from_distances,
    centerness,
    decode_boxes,
    edge_distances,
    encode_boxes,
    pairwise_iou,
)

UNIT = (1.0, 1.0, 1.0, 1.0)
ATSS = (10.0, 10.0, 5.0, 5.0)


def random_boxes(count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    top_left = torch.rand(count, 2, generator=generator, dtype=dtype) * 300
    return torch.cat([top_left, top_left + 1 + torch.rand(count, 2, generator=generator, dtype=dtype) * 200], dim=1)


def test_deltas_are_shifts_and_log_growths_in_units_of_the_anchor() -> None:
    anchor = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    box = torch.tensor([[5.0, 10.0, 25.0, 20.0]])  # centre (15, 15), 20 x 10; the anchor's: (5, 10), 10 x 20
    expected = torch.tensor([[1.0, 0.25, math.log(2), -math.log(2)]])
    torch.testing.assert_close(encode_boxes(box, anchor, UNIT), expected)
    torch.testing.assert_close(encode_boxes(box, anchor, ATSS), expected * torch.tensor(ATSS))


@pytest.mark.parametrize("weights", [UNIT, ATSS])
def test_decoding_inverts_encoding(weights: tuple[float, float, float, float]) -> None:
    boxes, anchors = random_boxes(50), random_boxes(50, seed=1)
    decoded = decode_boxes(encode_boxes(boxes, anchors, weights), anchors, weights)
    torch.testing.assert_close(decoded, boxes, atol=1e-3, rtol=1e-5)


def test_zero_deltas_give_the_anchors_for_any_leading_shape() -> None:
    anchors = random_boxes(12).view(3, 4, 4)
    torch.testing.assert_close(decode_boxes(torch.zeros(3, 4, 4), anchors, ATSS), anchors)


def test_growth_is_clamped_and_shrinking_is_not() -> None:
    anchor = torch.tensor([[-8.0, -8.0, 8.0, 8.0]])
    huge = decode_boxes(torch.tensor([[0.0, 0.0, 1e4, MAX_LOG_GROWTH]]), anchor, UNIT)
    torch.testing.assert_close(huge, torch.tensor([[-500.0, -500.0, 500.0, 500.0]]))
    tiny = decode_boxes(torch.tensor([[0.0, 0.0, -10.0, -10.0]]), anchor, UNIT)
    torch.testing.assert_close(tiny[0, 2:] - tiny[0, :2], torch.full((2,), 16 * math.exp(-10)))


def test_decoding_has_right_gradients() -> None:
    anchors = random_boxes(4, dtype=torch.float64)
    deltas = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: decode_boxes(values, anchors, ATSS), deltas)


def test_aligned_iou_is_the_diagonal_of_torchvisions() -> None:
    first, second = random_boxes(40), random_boxes(40, seed=3)
    torch.testing.assert_close(aligned_iou(first, second), box_iou(first, second).diagonal())


def test_aligned_iou_broadcasts_to_every_pair() -> None:
    first, second = random_boxes(5), random_boxes(7, seed=3)
    torch.testing.assert_close(aligned_iou(first[:, None], second), box_iou(first, second))


def test_pairwise_iou_is_torchvisions_to_the_last_bit() -> None:
    first, second = random_boxes(30), random_boxes(50, seed=3)
    assert torch.equal(pairwise_iou(first, second), box_iou(first, second))
    assert pairwise_iou(first[:0], second).shape == (0, 50)
    assert pairwise_iou(first, second[:0]).shape == (30, 0)


def test_pairwise_iou_changes_neither_of_its_arguments() -> None:
    first, second = random_boxes(3), random_boxes(4, seed=3)
    before = first.clone(), second.clone()
    pairwise_iou(first, second)
    assert torch.equal(first, before[0])
    assert torch.equal(second, before[1])


def test_boxes_without_area_overlap_nothing() -> None:
    point = torch.tensor([5.0, 5.0, 5.0, 5.0])
    assert aligned_iou(point, point) == 0
    assert aligned_iou(point, torch.tensor([0.0, 0.0, 10.0, 10.0])) == 0


def test_edge_distances_are_positive_inside_and_negative_beyond() -> None:
    box = torch.tensor([0.0, 0.0, 10.0, 20.0])
    assert edge_distances(torch.tensor([2.0, 5.0]), box).tolist() == [2, 5, 8, 15]
    assert edge_distances(torch.tensor([-1.0, 5.0]), box)[0] == -1


def test_boxes_from_distances_invert_edge_distances() -> None:
    points, boxes = random_boxes(30)[:, :2], random_boxes(30, seed=1)
    torch.testing.assert_close(boxes_from_distances(points, edge_distances(points, boxes)), boxes, atol=1e-4, rtol=1e-6)
    around = boxes_from_distances(torch.tensor([10.0, 20.0]), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert around.tolist() == [9, 18, 13, 24]


def test_areas_are_width_times_height() -> None:
    boxes = torch.tensor([[1.0, 2.0, 4.0, 7.0], [3.0, 3.0, 3.0, 9.0]])
    assert box_areas(boxes).tolist() == [15, 0]


def test_centerness_is_one_in_the_middle_and_falls_towards_the_edges() -> None:
    box = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    assert centerness(torch.tensor([[4.0, 4.0]]), box) == 1
    torch.testing.assert_close(centerness(torch.tensor([[2.0, 4.0]]), box), torch.tensor([math.sqrt(2 / 6)]))
    torch.testing.assert_close(centerness(torch.tensor([[2.0, 1.0]]), box), torch.tensor([math.sqrt(2 / 6 * 1 / 7)]))
