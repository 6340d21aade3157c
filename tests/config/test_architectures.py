"""Every architecture of `dyzoo list` can be built, trained and used."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import dyzoo
from dyzoo.config.architectures import ARCHITECTURES, PUBLISHED
from dyzoo.model.detector import Detector

SMALL = 96  # px; padded to the architecture's own divisor


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_builds_trains_one_step_and_predicts(name: str) -> None:
    torch.manual_seed(0)
    config = replace(ARCHITECTURES[name](), labels=("cat", "dog"))
    model = Detector(config).train()
    image = torch.randint(0, 256, (3, SMALL, SMALL + 32), dtype=torch.uint8)
    boxes = torch.tensor([[10.0, 12.0, 60.0, 80.0], [40.0, 8.0, 120.0, 50.0]])
    target = {"boxes": boxes, "labels": torch.tensor([0, 1])}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    watched = {
        part: next(p for p in getattr(model, part).parameters() if p.requires_grad and p.ndim > 1)
        for part in ("backbone", "fpn", "dyhead", "head")
    }
    before = {part: parameter.detach().clone() for part, parameter in watched.items()}

    losses = model([image], [target])
    loss = sum(losses.values())
    loss.backward()
    optimizer.step()

    assert all(math.isfinite(value.item()) for value in losses.values()), losses
    for part, parameter in watched.items():
        assert not torch.equal(parameter, before[part]), part
    detections = model.predict(image, threshold=0.0, size="native")[0]
    assert detections.image_size == (SMALL, SMALL + 32)
    assert bool(detections.boxes_xyxy.isfinite().all())
    assert set(detections.labels.tolist()) <= {0, 1}


def test_every_description_is_a_sentence_of_its_own() -> None:
    lines = [(function.__doc__ or "").splitlines()[0] for function in ARCHITECTURES.values()]
    assert all(line.endswith((".", "`).")) for line in lines)
    assert len(set(lines)) == len(lines)


def test_what_others_report_belongs_to_an_architecture() -> None:
    assert set(PUBLISHED) <= set(ARCHITECTURES)
    for name, published in PUBLISHED.items():
        assert 30 < published.ap < 65, f"{name}: in percent"
        assert (published.weights_url is not None) == name.startswith(("official", "mmdet"))


@pytest.mark.parametrize("head", ["retinanet", "fcos", "faster_rcnn"])
def test_any_timm_backbone_under_any_head(head: str) -> None:
    model = dyzoo.create_model(f"dyhead_{head}_resnet50", labels=["cat"], backbone="convnext_atto")
    assert len(model.predict(torch.zeros(3, 64, 96, dtype=torch.uint8), size="native")) == 1
