"""Detections in places of a fixed number, and the graphs that hold them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import dyzoo
from dyzoo import FixedSizeDetector
from dyzoo.config import (
    ATSSConfig,
    BackboneConfig,
    DetectorConfig,
    DyHeadConfig,
    FasterRCNNConfig,
    FCOSConfig,
    FPNConfig,
    GroundedATSSConfig,
    HeadConfig,
    RetinaNetConfig,
)
from dyzoo.model.preprocess import batch_images

HEADS = {
    "atss": ATSSConfig(score_threshold=0.001, max_detections=300),
    "grounded_atss": GroundedATSSConfig(score_threshold=0.001, max_detections=300, tokens_per_class=(3, 1)),
    "retinanet": RetinaNetConfig(num_convs=1, score_threshold=0.001, max_detections=20),
    "fcos": FCOSConfig(num_convs=1, score_threshold=0.001, max_detections=300),
}


def small_detector(head: HeadConfig) -> dyzoo.Detector:
    torch.manual_seed(0)
    config = DetectorConfig(
        labels=("a", "b"),
        backbone=BackboneConfig("resnet10t"),
        fpn=FPNConfig(channels=16),
        dyhead=DyHeadConfig(channels=16, num_blocks=1),
        head=head,
    )
    model = dyzoo.Detector(config).eval()
    with torch.no_grad():
        for name, parameter in model.head.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(20 if "box" not in name else 5)
    return model


def pictures() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.rand(3, *size, generator=generator) for size in ((64, 90), (60, 64))]


def prepared(model: dyzoo.Detector, images: list[Tensor]) -> tuple[Tensor, Tensor]:
    batch, sizes = batch_images(images, model.config.preprocess, model.device)
    return batch, torch.tensor(sizes)


def assert_same(found: tuple[Tensor, ...], expected: list[dict[str, Tensor]], places: int) -> None:
    boxes, scores, labels, counts = found
    assert boxes.shape == (len(expected), places, 4)
    assert sum(counts) > 0
    for image, detected in enumerate(expected):
        count = int(counts[image])
        assert count == len(detected["scores"])
        torch.testing.assert_close(boxes[image, :count], detected["boxes"])
        torch.testing.assert_close(scores[image, :count], detected["scores"])
        assert torch.equal(labels[image, :count], detected["labels"])
        assert not boxes[image, count:].any()
        assert not scores[image, count:].any()
        assert bool((labels[image, count:] == -1).all())


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_the_detections_of_the_model_in_a_fixed_number_of_places(head: HeadConfig) -> None:
    model = small_detector(head)
    found = FixedSizeDetector(model)(*prepared(model, pictures()))
    assert_same(found, model(pictures()), head.max_detections)


def test_an_image_without_detections() -> None:
    model = small_detector(replace(HEADS["atss"], score_threshold=1.0))
    found = FixedSizeDetector(model)(*prepared(model, pictures()))
    assert found.counts.tolist() == [0, 0]
    assert not found.scores.any()


@pytest.mark.slow
def test_an_exported_program_detects_what_the_model_does() -> None:
    """Other pictures of the size it was exported for, other image sizes."""
    model = small_detector(HEADS["atss"])
    images = pictures()
    exported = torch.export.export(FixedSizeDetector(model), prepared(model, images)).module()
    others = [picture.flip(2)[:, :, :80] for picture in images]
    assert_same(exported(*prepared(model, others)), model(others), 300)


@pytest.mark.slow
def test_a_compiled_detector_is_one_graph() -> None:
    model = small_detector(HEADS["atss"])
    torch.compiler.reset()
    compiled = torch.compile(FixedSizeDetector(model), fullgraph=True, backend="aot_eager")
    assert_same(compiled(*prepared(model, pictures())), model(pictures()), 300)


def test_the_embedded_detector_in_fixed_places() -> None:
    model = dyzoo.create_model("dyhead_atss_resnet10t.bccd", pretrained=True)
    images = [torch.nn.functional.interpolate(pictures()[0][None], size=(128, 160))[0]]
    found = FixedSizeDetector(model)(*prepared(model, images))
    expected = model(images)
    assert int(found.counts[0]) == len(expected[0]["scores"])
    torch.testing.assert_close(found.scores[0, : int(found.counts[0])], expected[0]["scores"])


def test_the_operator_keeps_torchs_rules() -> None:
    from dyzoo.model.heads.fixed_size import suppress_to_fixed_size

    corners = torch.rand(2, 9, 2) * 20
    boxes = torch.cat([corners, corners + torch.rand(2, 9, 2) * 10], dim=2)
    sizes = torch.tensor([[24, 25]] * 2)
    candidates = (boxes, torch.rand(2, 9), torch.randint(3, (2, 9)), torch.rand(2, 9) > 0.3)
    torch.library.opcheck(suppress_to_fixed_size, (*candidates, sizes, True, 0.5, 6))


def test_a_two_stage_head_is_refused() -> None:
    head = FasterRCNNConfig(hidden_features=8)
    model = small_detector(HEADS["atss"])
    config = replace(model.config, head=head, fpn=replace(model.config.fpn, finest_stride=4, top="pool"))
    with pytest.raises(ValueError, match="FasterRCNNHead has no outputs of a fixed size, expected a dense head"):
        FixedSizeDetector(dyzoo.Detector(config))
