"""Targets that cannot be learnt are refused, each with the image and the box that are to blame."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dyzoo.model.targets import Target, check_targets

SIZES = [(64, 96), (48, 32)]  # (H, W)
INF, NAN = math.inf, math.nan
GOOD = [10.0, 10.0, 60.0, 50.0]


def target(*boxes: list[float], labels: list[int] | None = None) -> Target:
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "labels": torch.tensor(labels or [0] * len(boxes), dtype=torch.int64),
    }


def refusal(*targets: Target, sizes: list[tuple[int, int]] = SIZES) -> str:
    with pytest.raises(ValueError, match="expected") as caught:
        check_targets(targets, sizes, 3)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("box", "why"),
    [
        ([5, 5, 5, 9], "no area"),
        ([5, 9, 8, 9], "no area"),
        ([8, 5, 5, 9], "no area"),
        ([5, 9, 8, 5], "no area"),
        ([NAN, 5, 8, 9], "no number"),
        ([5, 5, 8, NAN], "no number"),
        ([5, 5, INF, 9], "infinite"),
        ([-INF, 5, 8, 9], "infinite"),
        ([0, 0, 1e30, 1e30], "far out"),
        ([32, 5, 40, 9], "outside"),
        ([5, 48, 8, 60], "outside"),
        ([-9, 5, 0, 9], "outside"),
        ([5, -9, 8, 0], "outside"),
    ],
)
def test_a_box_that_cannot_be_learnt_is_named(box: list[float], why: str) -> None:
    message = refusal(target(GOOD), target([1, 1, 20, 20], [float(edge) for edge in box]))
    assert message.startswith("target 1 has box 1 at (")
    assert f"{box[2]:.6g}" in message
    assert why in message
    assert "pixels of its image, 32 wide and 48 high" in message


def test_shares_of_the_image_are_noticed() -> None:
    message = refusal(target([0.25, 0.25, 0.75, 0.5]), target([0.0, 0.0, 1.0, 1.0]))
    assert "target 0 has box 0 at (0.25, 0.25, 0.75, 0.5)" in message
    assert "shares" in message


@pytest.mark.parametrize(
    "targets",
    [
        [target(GOOD), target()],
        [target(), target()],
        [target([-20.0, -5.0, 200.0, 300.0]), target([31.5, 47.5, 33.0, 49.0])],  # stick out
        [target([0.0, 0.0, 1.0, 1.0]), target()],  # a pixel in the corner
        [target([0.25, 0.25, 0.75, 0.5], GOOD), target()],  # small, but others are not
    ],
)
def test_what_can_be_learnt_is_accepted(targets: list[Target]) -> None:
    check_targets(targets, SIZES, 3)


def test_boxes_within_a_tiny_image_are_accepted() -> None:
    check_targets([target([0.25, 0.25, 0.75, 0.5])], [(1, 2)], 3)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class_is_named(label: int) -> None:
    message = refusal(target(GOOD), target([1.0, 1.0, 20.0, 20.0], labels=[label]))
    assert message.startswith(f"target 1 has the label {label}, expected 0 to 2")


@pytest.mark.parametrize(
    ("boxes", "labels"),
    [(torch.zeros(2, 4), torch.zeros(1)), (torch.zeros(4), torch.zeros(1)), (torch.zeros(1, 5), torch.zeros(1))],
)
def test_shapes_have_to_fit(boxes: Tensor, labels: Tensor) -> None:
    assert "(M, 4) and (M,)" in refusal(target(GOOD), {"boxes": boxes, "labels": labels.long()})


def test_a_batch_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many images and boxes: on a GPU every answer is a wait."""
    asked: list[Any] = []
    plain = Tensor.__bool__
    monkeypatch.setattr(Tensor, "__bool__", lambda self: asked.append(self) or plain(self))
    for name in ("item", "tolist", "__int__", "__float__"):
        monkeypatch.setattr(Tensor, name, lambda self, name=name: pytest.fail(f"{name} waits"))
    check_targets([target(GOOD, GOOD), target([1.0, 1.0, 20.0, 20.0])] * 8, SIZES * 8, 3)
    assert len(asked) == 1
