"""The two stages of Faster R-CNN together."""

from __future__ import annotations

import math

import pytest
import torch

from dyzoo.model.boxes import aligned_iou
from dyzoo.model.heads import FasterRCNNHead
from tests.model.heads.head_cases import (
    CLASSES,
    IMAGE_SIZE,
    NOTHING,
    OBJECTS,
    SHAPES,
    make_features,
    make_head,
    spread_out,
)


def faster_rcnn(**settings: object) -> FasterRCNNHead:
    head = make_head("faster_rcnn", **settings)
    assert isinstance(head, FasterRCNNHead)
    return head


def test_raw_predictions_are_the_first_stages_and_the_features() -> None:
    features = make_features(batch=2)
    raw = faster_rcnn()(features)
    assert set(raw) == {"objectness", "box", "features"}
    assert [tuple(level.shape) for level in raw["objectness"]] == [(2, 3, *shape) for shape in SHAPES]
    assert [tuple(level.shape) for level in raw["box"]] == [(2, 12, *shape) for shape in SHAPES]
    assert all(given is kept for given, kept in zip(features, raw["features"], strict=True))


def test_a_proposal_is_classified_and_moved() -> None:
    head = faster_rcnn()
    with torch.no_grad():
        for parameter in head.roi.parameters():
            parameter.zero_()
        head.roi.cls.bias.copy_(torch.tensor([0.1, 0.6, 0.02, 0.28]).log())
        head.roi.box.bias[4:8] = torch.tensor([0.0, 5.0, 0.0, 0.0])  # class 1: half its height down
    raw = head(make_features())
    raw["box"] = [torch.zeros_like(level) for level in raw["box"]]
    raw["objectness"] = [torch.full_like(level, -torch.inf) for level in raw["objectness"]]
    raw["objectness"][0][0, 1, 4, 5] = 1.0  # 32 px around (40, 32)
    found = head.decode(raw, [IMAGE_SIZE])[0]
    assert found["labels"].tolist() == [1, 0]
    torch.testing.assert_close(found["scores"], torch.tensor([0.6, 0.1]))
    torch.testing.assert_close(found["boxes"], torch.tensor([[24.0, 32.0, 56.0, 64.0], [24.0, 16.0, 56.0, 48.0]]))


@pytest.mark.parametrize("training", [True, False])
def test_training_looks_at_more_candidates_than_detection(training: bool) -> None:
    head = faster_rcnn(rpn_candidates_train=9, rpn_candidates_test=5, roi_batch_size=10**4).train(training)
    raw = head(make_features())
    seen: list[int] = []
    head.roi.register_forward_pre_hook(lambda _, inputs: seen.append(sum(map(len, inputs[1]))))
    head.decode(raw, [IMAGE_SIZE])
    head.losses(raw, [OBJECTS], [IMAGE_SIZE])
    assert 5 < seen[0] <= 3 * 5  # of each level, whatever the mode
    assert 3 * 5 < seen[1] <= 3 * 9 + len(OBJECTS["boxes"])


def test_no_gradient_flows_through_the_places_of_proposals() -> None:
    head = spread_out(faster_rcnn())
    losses = head.losses(head(make_features()), [OBJECTS], [IMAGE_SIZE])
    (losses["loss_cls"] + losses["loss_box"]).backward()
    assert all(parameter.grad is None for parameter in head.rpn.parameters())
    assert all(parameter.grad is not None for parameter in head.roi.parameters())


def test_proposals_are_clipped_to_each_image() -> None:
    head = spread_out(faster_rcnn())
    sizes = [(96, 120), (40, 50)]
    for (height, width), (boxes, _) in zip(sizes, head.propose(head(make_features(batch=2)), sizes, 1000), strict=True):
        assert len(boxes) > 0
        assert (boxes <= torch.tensor([width, height, width, height])).all()


def test_a_new_head_is_undecided_about_objects_and_classes() -> None:
    head = faster_rcnn()
    with torch.no_grad():
        losses = head.losses(
            head([level * 0 for level in make_features(batch=2)]), [OBJECTS, NOTHING], [IMAGE_SIZE] * 2
        )
    assert losses["loss_objectness"].item() == pytest.approx(math.log(2), rel=1e-3)
    assert losses["loss_cls"].item() == pytest.approx(math.log(CLASSES + 1), rel=1e-3)


def test_training_overfits_one_image() -> None:
    head = faster_rcnn(rpn_batch_size=64, roi_batch_size=64, roi_positive_fraction=0.5)
    features = make_features()
    target = {
        "boxes": torch.tensor([[10.0, 12.0, 50.0, 60.0], [70.0, 20.0, 110.0, 80.0]]),
        "labels": torch.tensor([0, 2]),
    }
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        torch.stack(list(head.losses(head(features), [target], [IMAGE_SIZE]).values())).sum().backward()
        optimizer.step()
    found = head.eval().decode(head(features), [IMAGE_SIZE])[0]
    for box, label in zip(target["boxes"], target["labels"], strict=True):
        best = int((found["labels"] == label).nonzero()[0])  # detections come with the highest score first
        assert found["scores"][best] > 0.8
        assert aligned_iou(found["boxes"][best], box) > 0.7
