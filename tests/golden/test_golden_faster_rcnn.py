"""A whole Faster R-CNN with the weights of another code base gives that code base's answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision.ops import box_iou

from dyzoo.checkpoints import convert_checkpoint
from dyzoo.model.detector import Detector
from dyzoo.model.heads import FasterRCNNHead, roi
from dyzoo.model.heads.rpn import Proposals
from dyzoo.model.preprocess import batch_images
from tests.golden import recipe
from tests.golden.agreement import MAP_TOLERANCE, MIN_AGREEMENT, agreement, deviation
from tests.golden.lost_layer import CHECKED_ON, LOST, solve_lost_weights

CASE = "official_faster_rcnn_r50"
FOLDER = Path(__file__).parent
LEVELS = ("p2", "p3", "p4", "p5", "p6")


@dataclass
class Case:
    """The detector, the golden answers, and its own results on the way."""

    detector: Detector
    golden: dict[str, Tensor]
    maps: dict[str, Tensor]
    raw: dict[str, list[Tensor]]
    proposals: Proposals
    image_sizes: list[tuple[int, int]]


@pytest.fixture(scope="module")
def case() -> Iterator[Case]:
    golden = load_file(FOLDER / f"{CASE}.safetensors")
    manifest = json.loads((FOLDER / f"{CASE}.json").read_text())["checkpoint"]
    foreign = {key: torch.from_numpy(recipe.tensor(key, shape)) for key, (shape, _) in manifest.items()}
    foreign |= {key: torch.zeros_like(foreign[key]) for key in LOST}
    detector = convert_checkpoint(foreign, CASE).eval()
    head = detector.head
    assert isinstance(head, FasterRCNNHead)
    with torch.no_grad():
        batch, image_sizes = batch_images([golden["image"]], detector.config.preprocess, detector.device)
        pyramid = detector.fpn(detector.backbone(batch))
        features = detector.dyhead(pyramid)
        solve_lost_weights(head, features, golden)
        raw = detector.forward_head(features)
        maps = {f"fpn.{name}": value for name, value in zip(LEVELS, pyramid, strict=True)}
        maps |= {f"dyhead.{name}": value for name, value in zip(LEVELS, features, strict=True)}
        maps |= {f"rpn.{name}.{level}": raw[name][level] for name in ("objectness", "box") for level in range(5)}
        (proposals,) = head.propose(raw, image_sizes, head.config.rpn_candidates_test)
        yield Case(detector, golden, maps, raw, proposals, image_sizes)


def test_it_has_as_many_parameters_as_the_official_detector(case: Case) -> None:
    assert round(sum(parameter.numel() for parameter in case.detector.parameters()) / 1e6, 2) == 53.20


def test_the_weights_found_are_those_of_a_fresh_layer(case: Case) -> None:
    box = case.detector.get_submodule("head.rpn.box")
    weight, bias = box.get_parameter("weight"), box.get_parameter("bias")
    assert weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert bias.abs().max() < 1e-4


def test_feature_maps_and_objectness(case: Case) -> None:
    stored = [name for name in case.golden if name.startswith(("fpn.", "dyhead.", "rpn.objectness."))]
    assert len(stored) == 10
    for name in stored:
        assert deviation(case.maps[name], case.golden[name]) < MAP_TOLERANCE, name


@pytest.mark.parametrize("level", CHECKED_ON)
def test_proposal_deltas_of_the_levels_that_were_not_solved_on(case: Case, level: int) -> None:
    name = f"rpn.box.{level}"
    assert deviation(case.maps[name], case.golden[name]) < MAP_TOLERANCE


def test_proposals(case: Case) -> None:
    expected = case.golden["proposals.boxes"]
    assert len(case.proposals.logits) == 1000
    assert deviation(case.proposals.logits[: len(expected)], case.golden["proposals.logits"]) < MAP_TOLERANCE
    same = box_iou(expected, case.proposals.boxes_xyxy[: len(expected)]) > 0.99
    assert same.diagonal().float().mean() >= MIN_AGREEMENT  # in the same order, the likeliest first


def test_detections(case: Case) -> None:
    found = case.detector.head.decode(case.raw, case.image_sizes)[0]
    assert agreement(case.golden, found) >= MIN_AGREEMENT


def test_the_detectors_own_door_gives_the_same(case: Case) -> None:
    with torch.no_grad():
        assert agreement(case.golden, case.detector([case.golden["image"]])[0]) >= MIN_AGREEMENT


def test_torchvisions_convention_would_be_noticed(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    aligned = roi.roi_align
    monkeypatch.setattr(roi, "roi_align", lambda *args, **kwargs: aligned(*args, **{**kwargs, "aligned": False}))
    found = case.detector.head.decode(case.raw, case.image_sizes)[0]
    assert agreement(case.golden, found) < MIN_AGREEMENT
