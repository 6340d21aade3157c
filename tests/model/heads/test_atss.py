"""The ATSS head: layers, losses and decoding."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dyzoo.config import ATSSConfig
from dyzoo.model.boxes import encode_boxes
from dyzoo.model.heads import ATSSHead, build_head
from dyzoo.model.heads.assignment import assign_atss
from dyzoo.model.heads.losses import BACKGROUND
from tests.model.heads.head_cases import (
    CHANNELS,
    CLASSES,
    IMAGE_SIZE,
    NOTHING,
    OBJECTS,
    SHAPES,
    STRIDES_PX,
    assert_gradients,
    assert_sound,
    make_features,
    make_head,
)


def atss(**settings: object) -> ATSSHead:
    head = make_head("atss", **settings)
    assert isinstance(head, ATSSHead)
    return head


def make_raw(logits: dict[int, float], box_deltas: dict[int, list[float]] | None = None) -> dict[str, list[Tensor]]:
    """Predictions of one image on one 4 x 5 level: given class-0 logits by position, everything else off or zero."""
    cls, box = torch.full((1, CLASSES, 20), -20.0), torch.zeros(1, 4, 20)
    for position, logit in logits.items():
        cls[0, 0, position] = logit
    for position, deltas in (box_deltas or {}).items():
        box[0, :, position] = torch.tensor(deltas)
    centerness = torch.zeros(1, 1, 4, 5)
    return {"cls": [cls.unflatten(2, (4, 5))], "box": [box.unflatten(2, (4, 5))], "centerness": [centerness]}


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


# layers


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_every_level_gets_one_prediction_for_each_position(kernel_size: int) -> None:
    raw = atss(kernel_size=kernel_size)(make_features(batch=2))
    for name, channels in (("cls", CLASSES), ("box", 4), ("centerness", 1)):
        assert [tuple(level.shape) for level in raw[name]] == [(2, channels, *shape) for shape in SHAPES]


def test_each_level_scales_its_boxes_and_nothing_else() -> None:
    head, features = atss(), make_features()
    before = head(features)
    with torch.no_grad():
        head.box_scales.copy_(torch.tensor([1.0, 2.0, 3.0]))
    after = head(features)
    for level, factor in enumerate((1, 2, 3)):
        torch.testing.assert_close(after["box"][level], factor * before["box"][level])
        torch.testing.assert_close(after["cls"][level], before["cls"][level])
        torch.testing.assert_close(after["centerness"][level], before["centerness"][level])


def test_another_number_of_levels_is_refused() -> None:
    with pytest.raises(ValueError, match="got 2 feature maps, expected 3"):
        atss()(make_features()[:2])


def test_build_head_makes_what_the_config_describes() -> None:
    head = build_head(ATSSConfig(kernel_size=3), CHANNELS, CLASSES, STRIDES_PX)
    assert isinstance(head, ATSSHead)
    assert head.cls.kernel_size == (3, 3)


# losses


def test_losses_of_one_anchor_by_hand() -> None:
    head = ATSSHead(ATSSConfig(), CHANNELS, num_classes=2, strides_px=(8,))
    zeros = {name: [torch.zeros(1, channels, 1, 1)] for name, channels in (("cls", 2), ("box", 4), ("centerness", 1))}
    # the anchor is 64 px wide around (4, 4) and the object 8 px around the same point
    losses = head.losses(zeros, [{"boxes": torch.tensor([[0.0, 0.0, 8.0, 8.0]]), "labels": torch.tensor([1])}])
    assert losses["loss_cls"].item() == pytest.approx((0.25 + 0.75) * 0.5**2 * math.log(2))
    assert losses["loss_box"].item() == pytest.approx(2 * (1 - 8**2 / 64**2))
    assert losses["loss_centerness"].item() == pytest.approx(math.log(2))  # target 1, prediction 1/2


def test_box_loss_is_the_mean_weighted_by_centerness() -> None:
    head = ATSSHead(ATSSConfig(num_candidates=1), CHANNELS, num_classes=1, strides_px=(64,))
    raw = {name: [torch.zeros(1, channels, 1, 2)] for name, channels in (("cls", 1), ("box", 4), ("centerness", 1))}
    # anchors are 512 px around (32, 32) and (96, 32)
    boxes = torch.tensor([[0.0, 0.0, 64.0, 64.0], [80.0, 0.0, 144.0, 64.0]])
    weights = [1.0, math.sqrt(16 / 48)]
    gious = [64**2 / 512**2, 64**2 / 512**2]
    expected = sum(w * (1 - g) for w, g in zip(weights, gious, strict=True)) / sum(weights)
    losses = head.losses(raw, [{"boxes": boxes, "labels": torch.tensor([0, 0])}])
    assert losses["loss_box"].item() == pytest.approx(2 * expected)
    targets = torch.tensor(weights)
    cross_entropy = -(targets * math.log(0.5) + (1 - targets) * math.log(0.5)).sum() / 2
    assert losses["loss_centerness"].item() == pytest.approx(cross_entropy.item())


def test_losses_are_averages_over_the_batch() -> None:
    head, features = atss(), make_features()
    once = head.losses(head(features), [OBJECTS])
    twice = head.losses(head([level.repeat(2, 1, 1, 1) for level in features]), [OBJECTS, OBJECTS])
    for name, value in once.items():
        torch.testing.assert_close(twice[name], value)


def test_a_batch_keeps_each_images_objects_apart() -> None:
    head = atss()
    first, second = make_features(seed=1), make_features(seed=2)
    other = {"boxes": torch.tensor([[40.0, 30.0, 100.0, 80.0]]), "labels": torch.tensor([1])}
    both = [torch.cat(pair) for pair in zip(first, second, strict=True)]
    straight = head.losses(head(both), [OBJECTS, other])
    swapped = head.losses(head([level.flip(0) for level in both]), [other, OBJECTS])
    mismatched = head.losses(head(both), [other, OBJECTS])
    for name, value in straight.items():
        torch.testing.assert_close(swapped[name], value)
    assert not torch.isclose(mismatched["loss_box"], straight["loss_box"])


def test_gradients_reach_every_parameter() -> None:
    head = atss()
    sum(head.losses(head(make_features()), [OBJECTS]).values()).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().amax() > 0, name


@pytest.mark.parametrize("targets", [[NOTHING], [NOTHING, NOTHING]])
def test_without_objects_losses_are_finite_and_reach_every_parameter(targets: list[dict[str, Tensor]]) -> None:
    head = atss()
    losses = head.losses(head(make_features(batch=len(targets))), targets)
    assert losses["loss_cls"] > 0
    assert losses["loss_box"] == losses["loss_centerness"] == 0
    sum(losses.values()).backward()
    assert_gradients(head)


def test_targets_may_be_of_other_number_types() -> None:
    head, features = atss(), make_features()
    expected = head.losses(head(features), [OBJECTS])
    converted = {"boxes": OBJECTS["boxes"].double(), "labels": OBJECTS["labels"].int()}
    for name, value in head.losses(head(features), [converted]).items():
        torch.testing.assert_close(value, expected[name])


def test_a_bf16_head_has_float32_losses_and_detections_near_those_of_float32() -> None:
    head, features = atss(), make_features()
    expected = head.losses(head(features), [OBJECTS])
    half = atss().to(torch.bfloat16)
    raw = half([level.to(torch.bfloat16) for level in features])
    assert all(level.dtype == torch.bfloat16 for levels in raw.values() for level in levels)
    for name, value in half.losses(raw, [OBJECTS]).items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name], rtol=0.02, atol=0)
    found = half.decode(raw, [IMAGE_SIZE])[0]
    assert found["boxes"].dtype == found["scores"].dtype == torch.float32


def test_autocast_leaves_losses_in_float32() -> None:
    head, features = atss(), make_features()
    raw = head(features)
    expected = head.losses(raw, [OBJECTS])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = head.losses(raw, [OBJECTS])
    for name, value in inside.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)


# decoding


def test_perfect_predictions_decode_to_the_objects_and_cost_nothing() -> None:
    head = atss()
    targets = [OBJECTS, {"boxes": torch.tensor([[40.0, 30.0, 100.0, 80.0]]), "labels": torch.tensor([1])}, NOTHING]
    raw = {name: [level.detach() for level in levels] for name, levels in head(make_features(batch=3)).items()}
    grids = head.anchor_grids(raw)
    anchors = torch.cat([grid.boxes(torch.device("cpu")) for grid in grids])
    for image, target in enumerate(targets):
        assigned = assign_atss(target["boxes"], grids, 9).split([len(grid) for grid in grids])
        for level, (owner, anchor) in enumerate(zip(assigned, anchors.split([len(g) for g in grids]), strict=True)):
            cls = torch.full((CLASSES, len(owner)), -12.0)
            box = torch.zeros(4, len(owner))
            for position in (owner != BACKGROUND).nonzero().flatten():
                cls[target["labels"][owner[position]], position] = 12.0
                box[:, position] = encode_boxes(
                    target["boxes"][owner[position]], anchor[position], head.config.box_code_weights
                )
            raw["cls"][level][image] = cls.unflatten(1, SHAPES[level])
            raw["box"][level][image] = box.unflatten(1, SHAPES[level])
    losses = head.losses(raw, targets)
    assert losses["loss_cls"] < 1e-3
    assert losses["loss_box"] < 1e-3
    for target, found in zip(targets, head.decode(raw, [IMAGE_SIZE] * 3), strict=True):
        order, found_order = target["labels"].argsort(), found["labels"].argsort()
        assert found["labels"][found_order].tolist() == target["labels"][order].tolist()
        torch.testing.assert_close(found["boxes"][found_order], target["boxes"][order], atol=1e-2, rtol=0)


def test_as_many_detections_as_are_allowed_and_all_of_them_sound() -> None:
    head = atss(score_threshold=0.0, max_detections=20)
    with torch.no_grad():
        head.cls.weight.mul_(50)
        head.box.weight.mul_(50)
    sizes = [(96, 120), (64, 100), (10, 11)]
    results = head.decode(head(make_features(batch=3)), sizes)
    assert len(results[0]["boxes"]) == 20
    for found, size in zip(results, sizes, strict=True):
        assert_sound(found, size, CLASSES, most=20)
        assert (found["scores"] < 1).all()


def test_an_image_has_the_same_detections_alone_and_in_a_batch_to_a_ten_thousandth() -> None:
    head = atss(score_threshold=0.0)
    features = make_features(batch=2)
    together = head.decode(head(features), [IMAGE_SIZE, (50, 60)])
    for image, size in enumerate([IMAGE_SIZE, (50, 60)]):
        alone = head.decode(head([level[image : image + 1] for level in features]), [size])[0]
        for name, value in alone.items():
            torch.testing.assert_close(together[image][name], value, rtol=1e-4, atol=1e-4)


def one_level_head(**settings: object) -> ATSSHead:
    """Stride 32 and small anchors: side 32 px, positions (column + 0.5) * 32; neighbours do not overlap."""
    return ATSSHead(replace(ATSSConfig(), anchor_scale=1.0, **settings), CHANNELS, CLASSES, (32,))


def test_the_score_is_class_times_centerness_and_the_threshold_is_on_the_class() -> None:
    raw = make_raw({0: logit(0.9), 6: logit(0.06), 12: logit(0.04)})
    raw["centerness"][0][0, 0, 0, 0] = logit(0.25)
    found = one_level_head(score_threshold=0.05).decode(raw, [(128, 160)])[0]
    torch.testing.assert_close(found["scores"], torch.tensor([0.9 * 0.25, 0.06 * 0.5]))
    torch.testing.assert_close(found["boxes"], torch.tensor([[0.0, 0.0, 32.0, 32.0], [32.0, 32.0, 64.0, 64.0]]))
    assert found["labels"].tolist() == [0, 0]


@pytest.mark.parametrize(("rank_by", "expected"), [("product", 0.6 * 0.5), ("class", 0.9 * 0.25)])
def test_candidates_are_ranked_by_the_product_or_by_the_class_alone(rank_by: str, expected: float) -> None:
    raw = make_raw({0: logit(0.9), 6: logit(0.6)})
    raw["centerness"][0][0, 0, 0, 0] = logit(0.25)
    found = one_level_head(rank_by=rank_by, candidates_per_level=1).decode(raw, [(128, 160)])[0]
    torch.testing.assert_close(found["scores"], torch.tensor([expected]))


def test_candidates_are_counted_for_each_level() -> None:
    head = atss(candidates_per_level=2, score_threshold=0.0, nms_threshold=1.0)
    assert len(head.decode(head(make_features()), [IMAGE_SIZE])[0]["boxes"]) == 2 * len(SHAPES)


def test_suppression_is_within_a_class() -> None:
    raw = make_raw({0: logit(0.9), 1: logit(0.8)}, {1: [-10.0, 0.0, 0.0, 0.0]})  # one anchor side to the left
    head = one_level_head()
    assert len(head.decode(raw, [(128, 160)])[0]["boxes"]) == 1
    raw["cls"][0][0, 1, 0, 1] = logit(0.7)
    found = head.decode(raw, [(128, 160)])[0]
    assert found["labels"].tolist() == [0, 1]
    torch.testing.assert_close(found["boxes"][0], found["boxes"][1])


def test_clipping_before_suppression_measures_the_overlap_inside_the_image() -> None:
    # twice as wide as its neighbour, with the left half outside the image
    raw = make_raw({0: logit(0.9), 5: logit(0.8)}, {0: [-5.0, 0.0, 5 * math.log(2), 0.0], 5: [0.0, -10.0, 0.0, 0.0]})
    assert len(one_level_head(clip_before_nms=False).decode(raw, [(128, 160)])[0]["boxes"]) == 2
    assert len(one_level_head(clip_before_nms=True).decode(raw, [(128, 160)])[0]["boxes"]) == 1


@pytest.mark.parametrize("clip_before_nms", [False, True])
def test_boxes_in_the_padding_are_dropped(clip_before_nms: bool) -> None:
    raw = make_raw({0: logit(0.9), 4: logit(0.8), 19: logit(0.7)})
    found = one_level_head(clip_before_nms=clip_before_nms).decode(raw, [(128, 100)])[0]
    torch.testing.assert_close(found["boxes"], torch.tensor([[0.0, 0.0, 32.0, 32.0]]))


def test_nothing_found_is_empty_tensors_of_the_usual_kinds() -> None:
    found = one_level_head().decode(make_raw({}), [(128, 160)])[0]
    assert found["boxes"].shape == (0, 4)
    assert found["scores"].shape == found["labels"].shape == (0,)
    assert found["boxes"].dtype == found["scores"].dtype == torch.float32
    assert found["labels"].dtype == torch.int64


def test_predictions_that_are_not_numbers_give_no_detections() -> None:
    raw = make_raw({0: math.nan, 6: logit(0.9), 12: logit(0.8)}, {6: [math.nan] * 4})
    found = one_level_head().decode(raw, [(128, 160)])[0]
    torch.testing.assert_close(found["boxes"], torch.tensor([[64.0, 64.0, 96.0, 96.0]]))


def test_an_empty_batch_has_no_detections() -> None:
    head = atss()
    assert head.decode(head(make_features(batch=0)), []) == []
