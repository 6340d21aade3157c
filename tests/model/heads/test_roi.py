"""The second stage of Faster R-CNN: pooling, losses and decoding against loops in double precision."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign

from dyzoo.config import FasterRCNNConfig
from dyzoo.model.heads import FasterRCNNHead
from dyzoo.model.heads.roi import RegionClassifier, assign_levels
from tests.model.heads.head_cases import (
    CHANNELS,
    CLASSES,
    IMAGE_SIZE,
    MAX_LOG_GROWTH,
    NOTHING,
    OBJECTS,
    STRIDES_PX,
    assert_gradients,
    is_empty,
    make_features,
    make_head,
    random_objects,
    slow_clip,
    slow_iou,
    slow_nms,
    spread_out,
)

PYRAMID_PX = (4, 8, 16, 32)


def roi(num_classes: int = CLASSES, **settings: object) -> RegionClassifier:
    head = spread_out(make_head("faster_rcnn", num_classes, **settings))
    assert isinstance(head, FasterRCNNHead)
    return head.roi


# pooling


@pytest.mark.parametrize(
    ("width", "height", "level"),
    [
        (224, 224, 2),  # the canonical box is pooled from stride 16
        (448, 112, 2),  # by area, not by side
        (223.9, 224, 1),
        (112, 112, 1),
        (111.9, 112, 0),
        (448, 448, 3),
        (447.9, 448, 2),
        (2000, 2000, 3),
        (1, 1, 0),
        (0, 0, 0),
    ],
)
def test_a_box_is_pooled_from_the_level_of_its_size(width: float, height: float, level: int) -> None:
    assert assign_levels(torch.tensor([[10.0, 20.0, 10 + width, 20 + height]]), PYRAMID_PX).tolist() == [level]


def test_a_box_that_is_inside_out_is_pooled_too() -> None:
    boxes = torch.tensor([[30.0, 10.0, 10.0, 40.0], [30.0, 40.0, 10.0, 10.0]])
    pooled = roi().pool(make_features(), [boxes])
    assert len(pooled) == 2
    assert pooled.isfinite().all()


def test_levels_are_counted_from_the_finest_there_is() -> None:
    boxes = torch.tensor([[0.0, 0.0, side, side] for side in (10, 120, 230, 450)])
    assert assign_levels(boxes, (8, 16, 32)).tolist() == [0, 0, 1, 2]
    assert assign_levels(boxes, (16,)).tolist() == [0, 0, 0, 0]


def test_the_level_above_stride_32_is_not_pooled_from() -> None:
    classifier = RegionClassifier(FasterRCNNConfig(hidden_features=8), 4, 2, (16, 32, 64))
    assert classifier.strides_px == (16, 32)
    with pytest.raises(ValueError, match="expected one of 32 or less"):
        RegionClassifier(FasterRCNNConfig(hidden_features=8), 4, 2, (64, 128))


def bilinear(plane: list[list[float]], y: float, x: float) -> float:
    """The value between four positions; 0 more than one position outside, the edge's up to there."""
    height, width = len(plane), len(plane[0])
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = (min(max(value, 0.0), size - 1) for value, size in ((y, height), (x, width)))
    y0, x0 = math.floor(y), math.floor(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    fy, fx = y - y0, x - x0
    return (plane[y0][x0] * (1 - fx) + plane[y0][x1] * fx) * (1 - fy) + (
        plane[y1][x0] * (1 - fx) + plane[y1][x1] * fx
    ) * fy


def slow_pool(plane: list[list[float]], box: list[float], stride_px: int, bins: int) -> list[list[float]]:
    """RoIAlign of one channel, shifted by half a position, bins averaged over as many samples as they are large."""
    x1, y1, x2, y2 = (value / stride_px - 0.5 for value in box)
    height, width = (y2 - y1) / bins, (x2 - x1) / bins
    rows, columns = max(math.ceil(height), 0), max(math.ceil(width), 0)
    return [
        [
            sum(
                bilinear(plane, y1 + (i + (a + 0.5) / rows) * height, x1 + (j + (b + 0.5) / columns) * width)
                for a in range(rows)
                for b in range(columns)
            )
            / max(rows * columns, 1)
            for j in range(bins)
        ]
        for i in range(bins)
    ]


def test_pooling_against_loops() -> None:
    features = [
        torch.randn(2, CHANNELS, *shape, generator=torch.Generator().manual_seed(3))
        for shape in ((60, 64), (30, 32), (15, 16))
    ]
    boxes = [
        torch.tensor([[3.0, 5.0, 250.5, 300.0], [10.0, 12.0, 400.0, 300.0], [5.0, 6.0, 9.0, 7.5]]),
        torch.tensor([[0.0, -3.0, 515.0, 470.0], [100.2, 50.1, 333.0, 290.0]]),
    ]
    pooled = roi().pool(features, boxes)
    assert pooled.shape == (5, CHANNELS, 7, 7)
    places = [(image, box) for image, each in enumerate(boxes) for box in each.tolist()]
    levels = assign_levels(torch.cat(boxes), STRIDES_PX).tolist()
    assert set(levels) == {0, 1, 2}
    for index, ((image, box), level) in enumerate(zip(places, levels, strict=True)):
        for channel in (0, CHANNELS - 1):
            plane = features[level][image, channel].tolist()
            expected = torch.tensor(slow_pool(plane, box, STRIDES_PX[level], 7))
            torch.testing.assert_close(pooled[index, channel], expected, atol=1e-4, rtol=1e-4)


def test_torchvisions_own_pooling_is_another() -> None:
    features = make_features()
    boxes = [torch.tensor([[10.0, 10.0, 90.0, 80.0]])]
    theirs = MultiScaleRoIAlign(["0", "1", "2"], 7, 2)(dict(zip("012", features, strict=True)), boxes, [IMAGE_SIZE])
    assert (roi().pool(features, boxes) - theirs).abs().max() > 0.1


def test_layers_are_two_of_1024_with_background_last() -> None:
    classifier = RegionClassifier(FasterRCNNConfig(), 256, 80, (4, 8, 16, 32, 64))
    shapes = {name: tuple(value.shape) for name, value in classifier.named_parameters() if name.endswith("weight")}
    assert shapes == {
        "fc1.weight": (1024, 256 * 7 * 7),
        "fc2.weight": (1024, 1024),
        "cls.weight": (81, 1024),
        "box.weight": (320, 1024),
    }


def test_predictions_follow_the_order_of_the_boxes() -> None:
    classifier, features = roi(), make_features(batch=2)
    boxes = [random_objects(7, seed)["boxes"] for seed in (1, 2)]
    together = classifier(features, boxes)
    row = 0
    for image, each in enumerate(boxes):
        for box in each:
            alone = classifier([level[image : image + 1] for level in features], [box[None]])
            for value, expected in zip(together, alone, strict=True):
                torch.testing.assert_close(value[row : row + 1], expected, atol=1e-4, rtol=1e-4)
            row += 1


# losses


def center_form(box: list[float]) -> tuple[float, float, float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]


@pytest.mark.parametrize("num_classes", [1, CLASSES])
def test_losses_of_all_proposals_against_loops(num_classes: int) -> None:
    classifier = roi(num_classes, roi_batch_size=10**4, roi_positive_fraction=1.0)
    features = make_features(batch=2)
    targets = [{"boxes": OBJECTS["boxes"], "labels": OBJECTS["labels"].clamp(max=num_classes - 1)}, NOTHING]
    jitter = torch.randn(15, 4, generator=torch.Generator().manual_seed(0)) * 8
    proposals = [targets[0]["boxes"].repeat(5, 1) + jitter, random_objects(15, seed=5)["boxes"]]
    loss_cls, loss_box, count, num_positives = 0.0, 0.0, 0, 0
    for image, target in enumerate(targets):
        candidates = torch.cat([proposals[image], target["boxes"]])  # ground truth takes part
        logits, deltas = classifier([level[image : image + 1] for level in features], [candidates])
        for box, scores, predicted in zip(candidates.tolist(), logits.double().tolist(), deltas.tolist(), strict=True):
            overlaps = [slow_iou(box, other) for other in target["boxes"].tolist()]
            best = max(overlaps, default=0.0)
            label = int(target["labels"][overlaps.index(best)]) if best >= 0.5 else num_classes
            loss_cls += math.log(sum(math.exp(score - scores[label]) for score in scores))
            count += 1
            if label == num_classes:
                continue
            num_positives += 1
            ax, ay, aw, ah = center_form(box)
            x, y, w, h = center_form(target["boxes"][overlaps.index(best)].tolist())
            wanted = (10 * (x - ax) / aw, 10 * (y - ay) / ah, 5 * math.log(w / aw), 5 * math.log(h / ah))
            loss_box += sum(abs(a - b) for a, b in zip(predicted[label], wanted, strict=True))
    assert 5 < num_positives < count
    losses = classifier.losses(features, proposals, targets)
    assert losses[0].item() == pytest.approx(loss_cls / count, rel=1e-4)
    assert losses[1].item() == pytest.approx(loss_box / count, rel=1e-4)


def test_ground_truth_is_among_the_proposals() -> None:
    classifier = roi()
    nothing_near = [torch.tensor([[0.0, 0.0, 3.0, 3.0]])]
    assert classifier.losses(make_features(), nothing_near, [OBJECTS])[1] > 0


def test_a_quarter_of_the_sample_is_positive() -> None:
    classifier = roi(roi_batch_size=16)
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.zero_()
        classifier.cls.bias[CLASSES] = 3.0
    proposals = [torch.cat([OBJECTS["boxes"].repeat(10, 1), random_objects(300, seed=9)["boxes"] * 0.1])]
    loss = classifier.losses(make_features(), proposals, [OBJECTS])[0]
    odds = CLASSES + math.exp(3)
    expected = (4 * math.log(odds) + 12 * (math.log(odds) - 3)) / 16
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_no_proposals_and_no_objects_cost_nothing_and_keep_the_graph() -> None:
    classifier = roi()
    losses = classifier.losses(make_features(batch=2), [torch.zeros(0, 4)] * 2, [NOTHING] * 2)
    assert losses == (0, 0)
    torch.stack(losses).sum().backward()
    assert_gradients(classifier)


# decoding


@pytest.mark.parametrize("num_classes", [1, CLASSES])
@pytest.mark.parametrize(
    "settings", [{}, {"score_threshold": 0.3}, {"nms_threshold": 0.2, "max_detections": 12}], ids=str
)
def test_detections_against_loops(settings: dict, num_classes: int) -> None:
    classifier, features = roi(num_classes, **settings), make_features()
    config, size = classifier.config, (80, 100)
    proposals = random_objects(40, seed=4, image_size=size)["boxes"]
    logits, deltas = classifier(features, [proposals])
    candidates = []
    for anchor, scores, delta in zip(proposals.tolist(), logits.double().tolist(), deltas.tolist(), strict=True):
        total = sum(math.exp(score) for score in scores)
        ax, ay, aw, ah = center_form(anchor)
        for label in range(num_classes):
            probability = math.exp(scores[label]) / total
            if probability <= config.score_threshold:
                continue
            dx, dy, dw, dh = (value / weight for value, weight in zip(delta[label], (10, 10, 5, 5), strict=True))
            x, y = ax + dx * aw, ay + dy * ah
            w, h = aw * math.exp(min(dw, MAX_LOG_GROWTH)), ah * math.exp(min(dh, MAX_LOG_GROWTH))
            box = slow_clip([x - w / 2, y - h / 2, x + w / 2, y + h / 2], size)
            if not is_empty(box):
                candidates.append((box, probability, label))
    expected = slow_nms(candidates, config.nms_threshold)[: config.max_detections]
    assert len(expected) > 5
    found = classifier.decode(features, [proposals], [size])[0]
    assert found["labels"].tolist() == [label for _, _, label in expected]
    torch.testing.assert_close(found["scores"], torch.tensor([score for _, score, _ in expected]))
    torch.testing.assert_close(found["boxes"], torch.tensor([box for box, _, _ in expected]), atol=1e-3, rtol=1e-4)


def fixed(probabilities: list[float], deltas: dict[int, list[float]], **settings: object) -> RegionClassifier:
    """Gives every box these probabilities of the classes and of background, and these deltas by class."""
    classifier = roi(len(probabilities) - 1, **settings)
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.zero_()
        classifier.cls.bias.copy_(torch.tensor(probabilities).log())
        for label, values in deltas.items():
            classifier.box.bias[4 * label : 4 * label + 4] = torch.tensor(values)
    return classifier


def test_a_box_has_a_prediction_for_each_class_and_none_for_background() -> None:
    classifier = fixed([0.3, 0.04, 0.2, 0.46], {0: [1.0, 0.0, 0.0, 0.0], 2: [0.0, 0.0, 5 * math.log(2), 0.0]})
    found = classifier.decode(make_features(), [torch.tensor([[20.0, 20.0, 40.0, 60.0]])], [IMAGE_SIZE])[0]
    assert found["labels"].tolist() == [0, 2]
    torch.testing.assert_close(found["scores"], torch.tensor([0.3, 0.2]))
    torch.testing.assert_close(found["boxes"], torch.tensor([[22.0, 20.0, 42.0, 60.0], [10.0, 20.0, 50.0, 60.0]]))


def test_overlaps_are_measured_inside_the_image() -> None:
    # the first reaches as far out of the image as into it
    boxes = torch.tensor([[-22.0, 10.0, 20.0, 40.0], [0.0, 10.0, 20.0, 40.0]])
    found = fixed([0.9, 0.1], {}).decode(make_features(), [boxes], [IMAGE_SIZE])[0]
    torch.testing.assert_close(found["boxes"], torch.tensor([[0.0, 10.0, 20.0, 40.0]]))


def test_images_keep_their_own_proposals() -> None:
    classifier = fixed([0.9, 0.1], {})
    boxes: list[Tensor] = [
        torch.zeros(0, 4),
        torch.tensor([[5.0, 5.0, 20.0, 20.0]]),
        torch.tensor([[30.0, 5.0, 50.0, 20.0]]),
    ]
    found = classifier.decode(make_features(batch=3), boxes, [IMAGE_SIZE] * 3)
    for ours, expected in zip(found, boxes, strict=True):
        torch.testing.assert_close(ours["boxes"], expected)
