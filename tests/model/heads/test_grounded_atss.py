"""Several outputs for a class: probabilities, losses and boxes that end at the last pixel."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dyzoo.config import ATSSConfig, DetectorConfig, GroundedATSSConfig
from dyzoo.model.heads import ATSSHead, GroundedATSSHead, build_head
from dyzoo.model.heads.dense import suppress
from dyzoo.model.heads.losses import focal_loss
from dyzoo.model.preprocess import map_to_image
from tests.model.heads.head_cases import CHANNELS, CLASSES, IMAGE_SIZE, OBJECTS, STRIDES_PX, make_features, make_head

TOKENS = (2, 1, 3)


def grounded() -> GroundedATSSHead:
    head = make_head("grounded_atss")
    assert isinstance(head, GroundedATSSHead)
    with torch.no_grad():
        head.cls.weight.mul_(50)
    return head


def test_a_class_is_the_mean_of_its_tokens() -> None:
    head = grounded()
    raw = head(make_features(batch=2))
    assert head.cls.out_channels == sum(TOKENS)
    tokens = torch.cat([level.flatten(2).mT for level in raw["cls"]], dim=1).sigmoid()
    expected = torch.stack([part.mean(dim=-1) for part in tokens.split(TOKENS, dim=-1)], dim=-1)
    torch.testing.assert_close(head.class_probabilities(raw), expected)
    torch.testing.assert_close(head.class_logits(raw).sigmoid(), expected)


def test_a_score_is_a_square_root() -> None:
    torch.testing.assert_close(
        grounded().score(torch.tensor([[[0.5, 0.02]]]), torch.tensor([[[0.5]]])), torch.tensor([[[0.5, 0.1]]])
    )


def test_with_one_token_for_each_class_the_losses_are_atss() -> None:
    torch.manual_seed(0)
    one = build_head(GroundedATSSConfig(), CHANNELS, CLASSES, STRIDES_PX)
    plain = build_head(ATSSConfig(), CHANNELS, CLASSES, STRIDES_PX)
    assert type(plain) is ATSSHead
    plain.load_state_dict(one.state_dict())
    found, expected = (head.losses(head(make_features()), [OBJECTS]) for head in (one, plain))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=0)


def test_the_class_loss_is_that_of_the_mean() -> None:
    head = grounded()
    raw = {name: [level.double() for level in levels] for name, levels in head(make_features()).items()}
    probability = head.class_probabilities(raw).double()
    labels = torch.randint(-1, CLASSES, probability.shape[:2])
    found = focal_loss(head.class_logits(raw), labels, 0.25, 2.0)
    wanted = labels[..., None] == torch.arange(CLASSES)
    right = torch.where(wanted, probability, 1 - probability)
    expected = (torch.where(wanted, 0.25, 0.75) * (1 - right) ** 2 * -right.log()).sum()
    assert found.item() == pytest.approx(expected.item(), rel=1e-3)


@pytest.mark.parametrize("logit", [-50_000.0, -120.0, 120.0, 50_000.0])
def test_certain_answers_have_finite_losses_and_gradients(logit: float) -> None:
    head = grounded()
    cls = [torch.full((1, sum(TOKENS), 2, 2), logit, requires_grad=True)]
    loss = focal_loss(head.class_logits({"cls": cls}), torch.tensor([[0, 1, 2, -1]]), 0.25, 2.0)
    loss.backward()
    assert loss.isfinite()
    assert cls[0].grad is not None
    assert cls[0].grad.isfinite().all()


def test_boxes_are_clipped_and_suppressed_with_their_last_pixel() -> None:
    """Two boxes whose IoU is .6 measured between edges and less between pixels."""
    boxes = torch.tensor(
        [[0.0, 0.0, 10.0, 8.0], [0.0, 0.0, 10.0, 5.0], [-5.0, -5.0, 900.0, 900.0], [20.0, 20.0, 21.0, 30.0]]
    )
    scores, labels = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([0, 0, 1, 2])
    settings = {"clip_before_nms": True, "nms_threshold": 0.6, "max_detections": 10}
    found = suppress(boxes, scores, labels, IMAGE_SIZE, inclusive_corners=True, **settings)
    height, width = IMAGE_SIZE
    expected = torch.tensor([[0.0, 0, 10, 8], [0, 0, 10, 5], [0, 0, width, height]])  # one pixel wide is empty
    assert torch.equal(found["boxes"], expected)
    assert len(suppress(boxes, scores, labels, IMAGE_SIZE, **settings)["boxes"]) == 3
    assert suppress(boxes, scores, labels, IMAGE_SIZE, **settings)["labels"].tolist() == [0, 1, 2]


def test_the_last_pixel_is_what_is_brought_to_the_size_of_the_picture() -> None:
    boxes = torch.tensor([[0.0, 0.0, 50.0, 40.0], [10.0, 10.0, 21.0, 31.0]])
    found = map_to_image(boxes, (40, 50), (80, 100), inclusive_corners=True)
    assert found.tolist() == [[0, 0, 99, 79], [20, 20, 41, 61]]
    assert map_to_image(boxes, (80, 100), (40, 50), inclusive_corners=True)[1].tolist() == [5, 5, 11, 16]


def test_tokens_are_one_count_for_each_class() -> None:
    with pytest.raises(ValueError, match="tokens_per_class has 2 counts, expected one for each of 3 labels"):
        build_head(GroundedATSSConfig(tokens_per_class=(1, 2)), CHANNELS, CLASSES, STRIDES_PX)


def test_classes_of_other_data_keep_the_tokens_of_their_name() -> None:
    config = DetectorConfig(labels=("cat", "hot dog"), head=GroundedATSSConfig(tokens_per_class=(1, 2)))
    assert config.with_labels(["hot dog", "fox"]).head.tokens_per_class == (2, 1)
    plain = replace(config, head=ATSSConfig())
    assert plain.with_labels(["fox"]) == replace(plain, labels=("fox",))
