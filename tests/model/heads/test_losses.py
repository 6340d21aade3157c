"""The dense losses against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from dyzoo.model.heads.losses import BACKGROUND, focal_loss, giou_loss


def test_focal_loss_of_an_object_counts_its_class_and_the_others() -> None:
    logits = torch.tensor([[math.log(3.0), math.log(1 / 4)]])  # probabilities 3/4 and 1/5
    own = 0.25 * (1 / 4) ** 2 * -math.log(3 / 4)
    other = 0.75 * (1 / 5) ** 2 * -math.log(4 / 5)
    assert focal_loss(logits, torch.tensor([0]), alpha=0.25, gamma=2.0).item() == pytest.approx(own + other)


def test_focal_loss_of_background_counts_every_class_as_absent() -> None:
    logits = torch.tensor([[math.log(3.0), math.log(1 / 4)]])
    expected = 0.75 * ((3 / 4) ** 2 * -math.log(1 / 4) + (1 / 5) ** 2 * -math.log(4 / 5))
    assert focal_loss(logits, torch.tensor([BACKGROUND]), alpha=0.25, gamma=2.0).item() == pytest.approx(expected)


def test_focal_loss_sums_over_any_leading_shape() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 3, generator=generator)
    labels = torch.randint(BACKGROUND, 3, (2, 5), generator=generator)
    apart = sum(focal_loss(logits[i, j], labels[i, j], 0.25, 2.0) for i in range(2) for j in range(5))
    torch.testing.assert_close(focal_loss(logits, labels, 0.25, 2.0), apart)


def test_focal_loss_and_its_gradient_stay_finite_for_extreme_logits() -> None:
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([1]), alpha=0.25, gamma=2.0)
    loss.backward()
    assert loss.item() == pytest.approx(0.25 * 200 + 0.75 * 200)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_giou_loss_of_equal_overlapping_and_separate_boxes() -> None:
    box = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    one = torch.ones(1)
    assert giou_loss(box, box, one).item() == pytest.approx(0, abs=1e-6)
    overlapping = torch.tensor([[1.0, 0.0, 3.0, 2.0]])  # intersection 2, union 6, enclosing box 6
    assert giou_loss(box, overlapping, one).item() == pytest.approx(1 - 2 / 6)
    separate = torch.tensor([[4.0, 0.0, 6.0, 2.0]])  # no intersection, union 8, enclosing box 12
    assert giou_loss(box, separate, one).item() == pytest.approx(1 + 4 / 12)


def test_giou_loss_weights_each_pair() -> None:
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0]] * 2)
    targets = torch.tensor([[1.0, 0.0, 3.0, 2.0], [4.0, 0.0, 6.0, 2.0]])
    loss = giou_loss(boxes, targets, torch.tensor([0.5, 2.0]))
    assert loss.item() == pytest.approx(0.5 * (1 - 2 / 6) + 2 * (1 + 4 / 12))


def test_giou_loss_of_no_boxes_is_zero_and_keeps_the_graph() -> None:
    boxes = torch.zeros(0, 4, requires_grad=True)
    loss = giou_loss(boxes, torch.zeros(0, 4), torch.zeros(0))
    loss.backward()
    assert loss.item() == 0
    assert boxes.grad is not None
