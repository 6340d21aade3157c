"""The RetinaNet head against loops in double precision."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from dyzoo.config import RetinaNetConfig
from dyzoo.model.heads import Head, RetinaNetHead
from dyzoo.model.heads.anchors import all_boxes
from tests.model.heads.head_cases import (
    CLASSES,
    CONFIGS,
    IMAGE_SIZE,
    MAX_LOG_GROWTH,
    NOTHING,
    OBJECTS,
    SHAPES,
    STRIDES_PX,
    is_empty,
    make_features,
    make_head,
    random_objects,
    slow_clip,
    slow_iou,
    slow_nms,
    spread_out,
)


def retinanet(**settings: object) -> RetinaNetHead:
    head = make_head("retinanet", **settings)
    assert isinstance(head, RetinaNetHead)
    return head


# the oracle: one anchor, one class and one object at a time


def slow_anchors(shapes: tuple[tuple[int, int], ...] = SHAPES) -> list[list[list[float]]]:
    """The anchors of each level."""
    levels = []
    for (height, width), stride in zip(shapes, STRIDES_PX, strict=True):
        anchors = []
        for row in range(height):
            for column in range(width):
                for octave in (1.0, 2 ** (1 / 3), 2 ** (2 / 3)):
                    for ratio in (0.5, 1.0, 2.0):
                        side = 4 * stride * octave
                        w, h = side / math.sqrt(ratio), side * math.sqrt(ratio)
                        x, y = column * stride, row * stride
                        anchors.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
        levels.append(anchors)
    return levels


def predictions(
    raw: dict[str, list[Tensor]], image: int, num_classes: int
) -> list[list[tuple[list[float], list[float]]]]:
    """Class logits and deltas of each level and anchor, read off the maps channel by channel."""
    levels = []
    for cls, box in zip(raw["cls"], raw["box"], strict=True):
        cls, box = cls[image].double(), box[image].double()
        anchors = []
        for row in range(cls.shape[1]):
            for column in range(cls.shape[2]):
                for a in range(9):
                    logits = [cls[a * num_classes + k, row, column].item() for k in range(num_classes)]
                    anchors.append((logits, [box[a * 4 + i, row, column].item() for i in range(4)]))
        levels.append(anchors)
    return levels


def center_form(box: list[float]) -> tuple[float, float, float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]


def slow_deltas(anchor: list[float], box: list[float]) -> list[float]:
    ax, ay, aw, ah = center_form(anchor)
    x, y, w, h = center_form(box)
    return [(x - ax) / aw, (y - ay) / ah, math.log(w / aw), math.log(h / ah)]


def slow_decode(anchor: list[float], deltas: list[float]) -> list[float]:
    ax, ay, aw, ah = center_form(anchor)
    x, y = ax + deltas[0] * aw, ay + deltas[1] * ah
    w, h = aw * math.exp(min(deltas[2], MAX_LOG_GROWTH)), ah * math.exp(min(deltas[3], MAX_LOG_GROWTH))
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def slow_losses(
    head: Head, raw: dict[str, list[Tensor]], targets: list[dict[str, Tensor]], beta: float
) -> tuple[float, float, int]:
    """Sums of the class and of the box losses, and the number of positive anchors."""
    assert isinstance(head, RetinaNetHead)
    num_classes, float_anchors = head.num_classes, all_boxes(head.anchor_grids(raw), torch.device("cpu"))
    anchors = [anchor for level in slow_anchors() for anchor in level]
    loss_cls, loss_box, num_positives = 0.0, 0.0, 0
    for image, target in enumerate(targets):
        predicted = [one for level in predictions(raw, image, num_classes) for one in level]
        boxes, labels = target["boxes"].tolist(), target["labels"].tolist()
        # whether two overlaps are equal is up to float32, so the overlaps themselves are not computed apart
        overlaps = box_iou(float_anchors, target["boxes"]).tolist()
        best = [max(column) for column in zip(*overlaps, strict=True)]
        for anchor, (logits, deltas), row in zip(anchors, predicted, overlaps, strict=True):
            highest = max(row, default=0.0)
            is_positive = highest >= 0.5 or any(v == b > 0 for v, b in zip(row, best, strict=True))
            if not is_positive and highest >= 0.4:
                continue
            owner = row.index(highest) if is_positive else None
            for k, logit in enumerate(logits):
                p = sigmoid(logit)
                if owner is not None and labels[owner] == k:
                    loss_cls -= 0.25 * (1 - p) ** 2 * math.log(p)
                else:
                    loss_cls -= 0.75 * p**2 * math.log(1 - p)
            if owner is not None:
                num_positives += 1
                for delta, wanted in zip(deltas, slow_deltas(anchor, boxes[owner]), strict=True):
                    error = abs(delta - wanted)
                    loss_box += error - beta / 2 if error >= beta else error**2 / (2 * beta)
    return loss_cls, loss_box, num_positives


def slow_detections(
    raw: dict[str, list[Tensor]], image_size: tuple[int, int], config: RetinaNetConfig, num_classes: int
) -> list[tuple[list[float], float, int]]:
    candidates = []
    for level, anchors in zip(predictions(raw, 0, num_classes), slow_anchors(), strict=True):
        pairs = [
            (sigmoid(logit), k, anchor, deltas)
            for anchor, (logits, deltas) in zip(anchors, level, strict=True)
            for k, logit in enumerate(logits)
            if sigmoid(logit) > config.score_threshold
        ]
        pairs.sort(key=lambda pair: -pair[0])
        candidates += [
            (slow_decode(anchor, deltas), score, k) for score, k, anchor, deltas in pairs[: config.candidates_per_level]
        ]
    best = slow_nms(candidates, config.nms_threshold)[: config.max_detections]
    clipped = [(slow_clip(box, image_size), score, label) for box, score, label in best]
    return [found for found in clipped if not is_empty(found[0])]


# layers


def test_every_level_gets_nine_predictions_for_each_position() -> None:
    raw = retinanet()(make_features(batch=2))
    for name, channels in (("cls", 9 * CLASSES), ("box", 9 * 4)):
        assert [tuple(level.shape) for level in raw[name]] == [(2, channels, *shape) for shape in SHAPES]


def test_the_default_layers_are_detectron2s() -> None:
    head = RetinaNetHead(RetinaNetConfig(), 256, 80, (8, 16, 32, 64, 128))
    shapes = {name: tuple(value.shape) for name, value in head.named_parameters() if name.endswith("weight")}
    towers = {
        f"{tower}.{index}.weight": (256, 256, 3, 3) for tower in ("cls_tower", "box_tower") for index in (0, 2, 4, 6)
    }
    assert shapes == towers | {"cls.weight": (720, 256, 3, 3), "box.weight": (36, 256, 3, 3)}


def test_the_towers_are_apart() -> None:
    head, features = retinanet(), make_features()
    before = head(features)
    with torch.no_grad():
        head.box_tower[0].weight.mul_(2)
    after = head(features)
    assert torch.equal(before["cls"][0], after["cls"][0])
    assert not torch.equal(before["box"][0], after["box"][0])


def test_anchors_are_detectron2s() -> None:
    head = retinanet()
    for grid, expected in zip(head.anchor_grids(head(make_features())), slow_anchors(), strict=True):
        torch.testing.assert_close(grid.boxes(torch.device("cpu")), torch.tensor(expected), atol=1e-4, rtol=1e-6)


# losses


@pytest.mark.parametrize("num_classes", [1, CLASSES])
@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_losses_against_the_oracle(beta: float, num_classes: int) -> None:
    head = spread_out(make_head("retinanet", num_classes, smooth_l1_beta=beta))
    raw = head(make_features(batch=3))
    targets = [random_objects(6, seed, num_classes=num_classes) for seed in (1, 2)] + [NOTHING]
    loss_cls, loss_box, num_positives = slow_losses(head, raw, targets, beta)
    assert num_positives > 20
    normalizer = 0.9 * 100 + 0.1 * num_positives
    losses = head.losses(raw, targets)
    assert losses["loss_cls"].item() == pytest.approx(loss_cls / normalizer, rel=1e-5)
    assert losses["loss_box"].item() == pytest.approx(loss_box / normalizer, rel=1e-5)


def test_anchors_between_the_thresholds_learn_nothing() -> None:
    head, features = retinanet(), make_features()
    # an object of the size of a middle anchor, moved so that it overlaps its neighbours' anchors a little less
    target = {"boxes": torch.tensor([[24.0, 24.0, 56.0, 56.0]]), "labels": torch.tensor([0])}
    raw = head(features)
    logits = raw["cls"][0].detach().requires_grad_()
    head.losses({"cls": [logits, *raw["cls"][1:]], "box": raw["box"]}, [target])["loss_cls"].backward()
    assert logits.grad is not None
    silent = (logits.grad.unflatten(1, (9, CLASSES)) == 0).all(dim=2).sum().item()
    between = [anchor for anchor in slow_anchors()[0] if 0.4 <= slow_iou(anchor, [24.0, 24.0, 56.0, 56.0]) < 0.5]
    assert silent == len(between) > 0


def test_losses_are_divided_by_a_running_mean_of_positive_anchors() -> None:
    head = retinanet()
    raw = head(make_features())
    num_positives = slow_losses(head, raw, [OBJECTS], 0.0)[2]
    sums = [head.losses(raw, [OBJECTS])["loss_cls"] * head.loss_normalizer for _ in range(3)]
    expected = 100.0
    for _ in range(3):
        expected = 0.9 * expected + 0.1 * num_positives
    assert head.loss_normalizer.item() == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(sums[0], sums[2])


def test_a_batch_without_objects_counts_as_one_anchor() -> None:
    head = retinanet()
    head.losses(head(make_features()), [NOTHING])
    assert head.loss_normalizer.item() == pytest.approx(90.1)


def test_evaluation_gives_the_losses_of_the_next_step_and_changes_nothing() -> None:
    head = retinanet()
    raw = head(make_features())
    head.eval()
    looked_at = head.losses(raw, [OBJECTS])
    assert head.loss_normalizer == 100
    trained = head.train().losses(raw, [OBJECTS])
    for name, value in trained.items():
        torch.testing.assert_close(looked_at[name], value, rtol=0, atol=0)


def test_the_running_mean_of_a_half_precision_head_is_taken_in_float32() -> None:
    head, half = retinanet(), retinanet().to(torch.bfloat16)
    raw = head(make_features())
    expected, found = (each.losses(raw, [OBJECTS]) for each in (head, half))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_the_running_mean_is_saved_with_the_weights() -> None:
    head, other = retinanet(), retinanet()
    raw = head(make_features())
    for _ in range(3):
        head.losses(raw, [OBJECTS])
    other.load_state_dict(head.state_dict())
    assert other.loss_normalizer == head.loss_normalizer != 100


def test_losses_of_several_batches_have_one_backward_pass() -> None:
    head = retinanet()
    losses = [head.losses(head(make_features(seed=seed)), [OBJECTS]) for seed in (1, 2)]
    torch.stack([value for each in losses for value in each.values()]).sum().backward()
    assert head.cls.weight.grad is not None


# decoding


@pytest.mark.parametrize("num_classes", [1, CLASSES])
@pytest.mark.parametrize(
    "settings",
    [{}, {"score_threshold": 0.3, "max_detections": 20}, {"candidates_per_level": 15}, {"nms_threshold": 0.2}],
    ids=str,
)
def test_detections_against_the_oracle(settings: dict, num_classes: int) -> None:
    head = spread_out(make_head("retinanet", num_classes, **settings))
    raw = head(make_features())
    expected = slow_detections(raw, IMAGE_SIZE, replace(CONFIGS["retinanet"], **settings), num_classes)
    found = head.decode(raw, [IMAGE_SIZE])[0]
    assert len(expected) > 10
    assert found["labels"].tolist() == [label for _, _, label in expected]
    torch.testing.assert_close(found["scores"], torch.tensor([score for _, score, _ in expected]))
    torch.testing.assert_close(found["boxes"], torch.tensor([box for box, _, _ in expected]), atol=1e-3, rtol=1e-4)


def hand_made(entries: dict[tuple[int, int, int, int, int], float]) -> dict[str, list[Tensor]]:
    """Deltas of zero, and class logits by (level, row, column, anchor, class); all others are off."""
    raw = {
        "cls": [torch.full((1, 9 * CLASSES, *shape), -20.0) for shape in SHAPES],
        "box": [torch.zeros(1, 36, *shape) for shape in SHAPES],
    }
    for (level, row, column, anchor, label), probability in entries.items():
        raw["cls"][level][0, anchor * CLASSES + label, row, column] = math.log(probability / (1 - probability))
    return raw


def test_channels_are_anchor_by_anchor() -> None:
    # level 1: stride 16, side 64; anchor 1 is the square of the first scale, anchor 4 that of the second
    raw = hand_made({(1, 3, 4, 1, 2): 0.9, (1, 3, 4, 4, 0): 0.8})
    raw["box"][1][0, 4 * 4 + 1, 3, 4] = 0.25  # dy of anchor 4
    found = retinanet().decode(raw, [(96, 128)])[0]
    assert found["labels"].tolist() == [2, 0]
    torch.testing.assert_close(found["scores"], torch.tensor([0.9, 0.8]))
    half = 32 * 2 ** (1 / 3)
    expected = torch.tensor([[32.0, 16.0, 96.0, 80.0], [64 - half, 48 - half / 2, 64 + half, 48 + 1.5 * half]])
    torch.testing.assert_close(found["boxes"], expected.clamp(max=torch.tensor([128.0, 96.0, 128.0, 96.0])))


def test_the_threshold_is_exclusive_and_on_the_pair_of_anchor_and_class() -> None:
    raw = hand_made({(0, 2, 2, 1, 0): 0.06, (0, 2, 2, 1, 1): 0.04, (0, 8, 8, 1, 1): 0.9})
    found = retinanet().decode(raw, [IMAGE_SIZE])[0]
    assert found["labels"].tolist() == [1, 0]
    exactly = retinanet(score_threshold=found["scores"][1].item()).decode(raw, [IMAGE_SIZE])[0]
    assert exactly["labels"].tolist() == [1]


def test_candidates_are_counted_for_each_level_and_not_by_its_anchors() -> None:
    features = make_features(shapes=((1, 1), (1, 1), (1, 1)))
    settings = {"score_threshold": 0.0, "nms_threshold": 1.0, "max_detections": 1000}
    few, all_pairs = (retinanet(**settings, candidates_per_level=count) for count in (2, 1000))
    raw = {name: [level.detach() for level in levels] for name, levels in few(features).items()}
    assert len(few.decode(raw, [(500, 500)])[0]["boxes"]) == 3 * 2
    assert len(all_pairs.decode(raw, [(500, 500)])[0]["boxes"]) == 3 * 9 * CLASSES  # more than the 9 anchors of a level


def test_overlaps_are_measured_on_whole_boxes_and_within_a_class() -> None:
    # one box ends where the image does, the other goes on as far again: alike inside the image, half alike in whole
    raw = hand_made({(0, 4, 0, 1, 0): 0.9, (0, 4, 2, 1, 0): 0.8, (0, 4, 2, 1, 1): 0.7})
    raw["box"][0][0, 4 + 2, 4, 0] = math.log(2.2)
    found = retinanet().decode(raw, [IMAGE_SIZE])[0]
    assert found["labels"].tolist() == [0, 0, 1]
    torch.testing.assert_close(found["boxes"][0], torch.tensor([0.0, 16.0, 35.2, 48.0]))
    torch.testing.assert_close(found["boxes"][1:], torch.tensor([[0.0, 16.0, 32.0, 48.0]] * 2))
    assert retinanet(nms_threshold=0.4).decode(raw, [IMAGE_SIZE])[0]["labels"].tolist() == [0, 1]


def test_boxes_in_the_padding_are_dropped_and_others_are_clipped() -> None:
    raw = hand_made({(0, 2, 2, 1, 0): 0.9, (0, 2, 12, 1, 0): 0.8, (0, 11, 5, 1, 0): 0.7})
    found = retinanet().decode(raw, [(80, 70)])[0]
    torch.testing.assert_close(found["boxes"], torch.tensor([[0.0, 0.0, 32.0, 32.0], [24.0, 72.0, 56.0, 80.0]]))


def test_perfect_predictions_decode_to_the_objects_and_cost_nothing() -> None:
    head = retinanet()
    target = {
        "boxes": torch.tensor([[20.0, 30.0, 60.0, 55.0], [70.0, 10.0, 110.0, 80.0]]),
        "labels": torch.tensor([2, 0]),
    }
    raw = hand_made({})
    for level, anchors in enumerate(slow_anchors()):
        for index, anchor in enumerate(anchors):
            overlaps = [slow_iou(anchor, box) for box in target["boxes"].tolist()]
            owner = overlaps.index(max(overlaps))
            position, a = divmod(index, 9)
            row, column = divmod(position, SHAPES[level][1])
            if max(overlaps) >= 0.5:
                label = int(target["labels"][owner])
                raw["cls"][level][0, a * CLASSES + label, row, column] = 12.0
            raw["box"][level][0, 4 * a : 4 * a + 4, row, column] = torch.tensor(
                slow_deltas(anchor, target["boxes"][owner].tolist())
            )
    losses = head.losses(raw, [target])
    assert losses["loss_cls"] < 1e-3
    assert losses["loss_box"] < 1e-4
    found = head.decode(raw, [IMAGE_SIZE])[0]
    order = found["labels"].argsort(descending=True)
    assert found["labels"][order].tolist() == [2, 0]
    torch.testing.assert_close(found["boxes"][order], target["boxes"], atol=1e-2, rtol=0)
