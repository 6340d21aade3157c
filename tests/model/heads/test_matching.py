"""Matching by overlap against torchvision's matcher and against loops; sampling."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from dyzoo.model.heads import matching
from dyzoo.model.heads.anchors import AnchorGrid
from dyzoo.model.heads.losses import BACKGROUND, IGNORED
from dyzoo.model.heads.matching import assign_by_iou, sample_balanced
from tests.model.heads.head_cases import random_objects, tensor_sizes

CPU = torch.device("cpu")
RPN = {"foreground_iou": 0.7, "background_iou": 0.3, "rescue": True}
RETINANET = {"foreground_iou": 0.5, "background_iou": 0.4, "rescue": True}
ROI = {"foreground_iou": 0.5, "background_iou": 0.5, "rescue": False}
SETTINGS = pytest.mark.parametrize("settings", [RPN, RETINANET, ROI], ids=["rpn", "retinanet", "roi"])

ANCHORS = AnchorGrid(9, 11, 16, 30.0, 0.0, octave_scales=3, aspect_ratios=(0.5, 1.0, 2.0)).boxes(CPU)
IMAGE_SIZE = (144, 176)


def assign_slowly(
    boxes: Tensor, anchors: Tensor, foreground_iou: float, background_iou: float, rescue: bool
) -> list[int]:
    # whether two overlaps are equal is up to float32, so the overlaps themselves are not computed apart
    overlaps = box_iou(anchors, boxes).tolist()
    best = [max(column) for column in zip(*overlaps, strict=True)]
    assigned = []
    for row in overlaps:
        saved = rescue and any(value == highest > 0 for value, highest in zip(row, best, strict=True))
        if saved or max(row) >= foreground_iou:
            assigned.append(row.index(max(row)))
        else:
            assigned.append(BACKGROUND if max(row) < background_iou else IGNORED)
    return assigned


@SETTINGS
@pytest.mark.parametrize("count", [1, 4, 30])
def test_against_loops(settings: dict, count: int) -> None:
    boxes = random_objects(count, seed=count, image_size=IMAGE_SIZE)["boxes"]
    assigned = assign_by_iou(boxes, ANCHORS, **settings)
    assert assigned.tolist() == assign_slowly(boxes, ANCHORS, **settings)
    if count > 1:
        assert set(assigned.tolist()) >= {BACKGROUND} | ({IGNORED} if settings is not ROI else set())


@SETTINGS
@pytest.mark.parametrize("piece", [1, 40, 1000, 2**20])
def test_against_torchvisions_matcher_in_pieces_of_any_size(
    settings: dict, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "MAX_PAIRS", piece)
    boxes = random_objects(25, seed=3, image_size=IMAGE_SIZE)["boxes"]
    matcher = Matcher(settings["foreground_iou"], settings["background_iou"], settings["rescue"])
    expected = matcher(box_iou(boxes, ANCHORS))  # -1 below, -2 between the thresholds: the values of ours
    assert {BACKGROUND, IGNORED} == {Matcher.BELOW_LOW_THRESHOLD, Matcher.BETWEEN_THRESHOLDS}
    torch.testing.assert_close(assign_by_iou(boxes, ANCHORS, **settings), expected, rtol=0, atol=0)


def test_every_object_gets_its_nearest_anchors_however_far_they_are() -> None:
    speck = torch.tensor([[50.0, 50.0, 52.0, 51.0]])
    assigned = assign_by_iou(speck, ANCHORS, **RPN)
    iou = box_iou(speck, ANCHORS)[0]
    assert 0 < iou.max() < 0.3
    assert ((assigned == 0) == (iou == iou.max())).all()


def test_an_anchor_that_is_rescued_learns_what_it_overlaps_most() -> None:
    # the anchor is the small object's best, but overlaps the large one more
    anchor = torch.tensor([[0.0, 0.0, 20.0, 20.0]])
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 20.0, 30.0]])
    assert assign_by_iou(boxes, anchor, **RPN).tolist() == [1]


def test_an_object_that_no_anchor_overlaps_matches_none() -> None:
    far = torch.tensor([[1000.0, 1000.0, 1010.0, 1010.0]])
    assert (assign_by_iou(far, ANCHORS, **RPN) == BACKGROUND).all()
    both = torch.cat([far, ANCHORS[40:41]])
    assert (assign_by_iou(both, ANCHORS, **RPN) != 0).all()


def test_thresholds_belong_to_the_upper_class() -> None:
    anchor = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    half, below = torch.tensor([[0.0, 0.0, 10.0, 5.0]]), torch.tensor([[0.0, 0.0, 10.0, 4.99]])
    assert assign_by_iou(half, anchor, **ROI).tolist() == [0]
    assert assign_by_iou(below, anchor, **ROI).tolist() == [BACKGROUND]


@SETTINGS
def test_without_objects_everything_is_background(settings: dict) -> None:
    assert (assign_by_iou(torch.zeros(0, 4), ANCHORS, **settings) == BACKGROUND).all()
    assert assign_by_iou(torch.zeros(0, 4), torch.zeros(0, 4), **settings).shape == (0,)
    assert assign_by_iou(torch.ones(2, 4), torch.zeros(0, 4), **settings).shape == (0,)


def test_a_crowd_is_matched_in_pieces() -> None:
    boxes = random_objects(2000, image_size=IMAGE_SIZE)["boxes"]
    anchors = ANCHORS.repeat(6, 1)
    assert len(boxes) * len(anchors) > 2 * matching.MAX_PAIRS
    with tensor_sizes() as sizes:
        assign_by_iou(boxes, anchors, **RPN)
    assert sizes.largest <= 4 * matching.MAX_PAIRS


# sampling


def assigned_with(positive: int, background: int, ignored: int) -> Tensor:
    values = torch.tensor([5] * positive + [BACKGROUND] * background + [IGNORED] * ignored)
    return values[torch.randperm(len(values), generator=torch.Generator().manual_seed(0))]


@pytest.mark.parametrize(
    ("positive", "background", "expected"),
    [(100, 100, (8, 24)), (3, 100, (3, 29)), (100, 5, (8, 5)), (0, 100, (0, 32)), (100, 0, (8, 0)), (0, 0, (0, 0))],
)
def test_background_fills_what_positives_leave(positive: int, background: int, expected: tuple[int, int]) -> None:
    assigned = assigned_with(positive, background, ignored=20)
    drawn = sample_balanced(assigned, 32, 0.25)
    assert tuple(map(len, drawn)) == expected
    for indices, is_right in zip(drawn, (assigned >= 0, assigned == BACKGROUND), strict=True):
        assert len(indices.unique()) == len(indices)
        assert is_right[indices].all()


def test_draws_differ_and_a_seed_repeats_them() -> None:
    assigned = assigned_with(100, 1000, 0)
    drawn = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        drawn.append(torch.cat(sample_balanced(assigned, 32, 0.5)).tolist())
    assert drawn[0] == drawn[2] != drawn[1]


def test_every_anchor_has_the_same_chance() -> None:
    torch.manual_seed(0)
    assigned = assigned_with(10, 0, 0)
    counts = torch.zeros(10)
    for _ in range(2000):
        counts[sample_balanced(assigned, 4, 0.5)[0]] += 1
    assert (counts - 400).abs().max() < 100  # standard deviation 18
