"""Whole detectors with the weights of other code bases give those code bases' answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from dyzoo.config.architectures import ARCHITECTURES
from dyzoo.model.detector import Detector
from dyzoo.model.preprocess import batch_images
from tests.golden.agreement import MAP_TOLERANCE, MIN_AGREEMENT, agreement, deviation
from tests.golden.foreign import golden_detector, golden_outputs

CASES = ("mmdet_atss_r50", "official_atss_r50")


@dataclass
class Loaded:
    """A detector with the weights of a case, and that case's golden tensors."""

    name: str
    detector: Detector
    golden: dict[str, Tensor]


@dataclass
class Case:
    """One detector, the golden answers, and its own intermediate results by their golden names."""

    detector: Detector
    golden: dict[str, Tensor]
    maps: dict[str, Tensor]
    raw: dict[str, list[Tensor]]
    image_sizes: list[tuple[int, int]]

    @property
    def target(self) -> dict[str, Tensor]:
        return {"boxes": self.golden["gt.boxes"], "labels": self.golden["gt.labels"]}


@pytest.fixture(scope="module", params=CASES)
def loaded(request: pytest.FixtureRequest) -> Loaded:
    return Loaded(request.param, golden_detector(request.param), golden_outputs(request.param))


@pytest.fixture(scope="module", params=["reference", "torch"])
def case(request: pytest.FixtureRequest, loaded: Loaded) -> Iterator[Case]:
    detector, golden = loaded.detector, loaded.golden
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setenv("DYHEAD_KERNELS_BACKEND", request.param)
        batch, image_sizes = batch_images([golden["image"]], detector.config.preprocess, detector.device)
        pyramid = detector.fpn(detector.backbone(batch))
        features = detector.dyhead(pyramid)
        raw = detector.forward_head(features)
        maps = {f"fpn.p{3 + level}": value for level, value in enumerate(pyramid)}
        maps |= {f"dyhead.p{3 + level}": value for level, value in enumerate(features)}
        maps |= {f"head.{name}.{level}": value for name in raw for level, value in enumerate(raw[name])}
        yield Case(detector, golden, maps, raw, image_sizes)


def test_feature_maps_and_raw_predictions(case: Case) -> None:
    stored = [name for name in case.golden if name.split(".")[0] in ("fpn", "dyhead", "head")]
    assert len(stored) >= 19
    for name in stored:
        assert deviation(case.maps[name], case.golden[name]) < MAP_TOLERANCE, name


@pytest.mark.parametrize("name", ["cls", "box", "centerness"])
def test_losses(case: Case, name: str) -> None:
    losses = case.detector.head.losses(case.raw, [case.target])
    assert losses[f"loss_{name}"].item() == pytest.approx(case.golden[f"loss.{name}"].item(), rel=1e-3)


def test_detections(case: Case) -> None:
    found = case.detector.head.decode(case.raw, case.image_sizes)[0]
    assert agreement(case.golden, found) >= MIN_AGREEMENT


def test_the_detectors_own_door_gives_the_same(loaded: Loaded) -> None:
    detector, golden = loaded.detector, loaded.golden
    with torch.no_grad():
        assert agreement(golden, detector([golden["image"]])[0]) >= MIN_AGREEMENT
        detector.train()
        losses = detector([golden["image"]], [{"boxes": golden["gt.boxes"], "labels": golden["gt.labels"]}])
        detector.eval()
    for name in ("cls", "box", "centerness"):
        assert losses[f"loss_{name}"].item() == pytest.approx(golden[f"loss.{name}"].item(), rel=1e-3)


@pytest.mark.parametrize("field", ["rank_by", "clip_before_nms", "anchor_center_offset"])
def test_the_other_code_bases_convention_would_be_noticed(
    case: Case, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = case.detector.head
    official, mmdet = (getattr(ARCHITECTURES[name]().head, field) for name in ("official_atss_r50", "mmdet_atss_r50"))
    other = mmdet if getattr(head.config, field) == official else official
    monkeypatch.setattr(head, "config", replace(head.config, **{field: other}))
    assert agreement(case.golden, head.decode(case.raw, case.image_sizes)[0]) < MIN_AGREEMENT
