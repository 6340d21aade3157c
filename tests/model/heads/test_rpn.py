"""The proposal network against torchvision's, its conventions set to detectron2's, and against loops."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers

from dyzoo.config import FasterRCNNConfig
from dyzoo.model.heads import FasterRCNNHead
from dyzoo.model.heads.anchors import all_boxes
from dyzoo.model.heads.rpn import RegionProposals
from tests.model.heads.head_cases import (
    CHANNELS,
    IMAGE_SIZE,
    NOTHING,
    OBJECTS,
    SHAPES,
    STRIDES_PX,
    make_features,
    make_head,
    random_objects,
    slow_clip,
)

CPU = torch.device("cpu")
RATIOS = (0.5, 1.0, 2.0)


def rpn(**settings: object) -> RegionProposals:
    head = make_head("faster_rcnn", **settings)
    assert isinstance(head, FasterRCNNHead)
    return head.rpn


def random_maps(batch: int, seed: int = 0, spread: float = 0.3) -> tuple[list[Tensor], list[Tensor]]:
    """Objectness (N, 3, H, W) and deltas (N, 12, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    objectness = [torch.randn(batch, 3, *shape, generator=generator) for shape in SHAPES]
    return objectness, [torch.randn(batch, 12, *shape, generator=generator) * spread for shape in SHAPES]


def torchvisions(candidates: int, proposals: int, nms_threshold: float) -> RegionProposalNetwork:
    anchors = AnchorGenerator(tuple((4 * stride,) for stride in STRIDES_PX), (RATIOS,) * len(STRIDES_PX))
    root = math.sqrt(2)
    anchors.cell_anchors = [  # not rounded
        torch.tensor([[-root, -1 / root, root, 1 / root], [-1, -1, 1, 1], [-1 / root, -root, 1 / root, root]])
        * 2
        * stride
        for stride in STRIDES_PX
    ]
    tops = {"training": candidates, "testing": candidates}, {"training": proposals, "testing": proposals}
    network = RegionProposalNetwork(anchors, RPNHead(CHANNELS, 3), 0.7, 0.3, 256, 0.5, *tops, nms_threshold)
    network.min_size = 1e-9  # 0 would keep what is empty
    return network


def test_anchors_are_three_at_a_position_and_not_rounded() -> None:
    network = torchvisions(10, 10, 0.7)
    strides = [[torch.tensor(stride)] * 2 for stride in STRIDES_PX]
    expected = torch.cat(network.anchor_generator.grid_anchors(list(SHAPES), strides))
    torch.testing.assert_close(all_boxes(rpn().anchor_grids(random_maps(1)[0]), CPU), expected)


def test_one_hidden_map_feeds_both_predictions() -> None:
    network, features = rpn(), make_features(batch=2)
    objectness, box = network(features)
    for level, logits, deltas in zip(features, objectness, box, strict=True):
        hidden = F.conv2d(level, network.conv.weight, network.conv.bias, padding=1).relu()
        torch.testing.assert_close(logits, network.objectness(hidden))
        torch.testing.assert_close(deltas, network.box(hidden))
        assert logits.shape[1:] == (3, *level.shape[2:])
        assert deltas.shape[1:] == (12, *level.shape[2:])


# proposals


@pytest.mark.parametrize(
    ("candidates", "count", "threshold"), [(1000, 1000, 0.7), (30, 1000, 0.7), (1000, 25, 0.7), (1000, 1000, 0.3)]
)
def test_proposals_are_torchvisions(candidates: int, count: int, threshold: float) -> None:
    objectness, box = random_maps(2)
    network = torchvisions(candidates, count, threshold)
    anchors = all_boxes(rpn().anchor_grids(objectness), CPU)
    logits, deltas = concat_box_prediction_layers(objectness, box)
    boxes = network.box_coder.decode(deltas, [anchors, anchors]).view(2, -1, 4)
    sizes, level_sizes = [IMAGE_SIZE, (70, 90)], [3 * height * width for height, width in SHAPES]
    expected_boxes, expected_scores = network.filter_proposals(boxes, logits, sizes, level_sizes)
    found = rpn(num_proposals=count, rpn_nms_threshold=threshold).propose(objectness, box, sizes, candidates)
    for ours, theirs, scores in zip(found, expected_boxes, expected_scores, strict=True):
        assert len(theirs) >= 25
        torch.testing.assert_close(ours.boxes_xyxy, theirs, atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(ours.logits.sigmoid(), scores)


def test_levels_do_not_suppress_each_other() -> None:
    objectness = [torch.full((1, 3, *shape), -10.0) for shape in SHAPES]
    box = [torch.zeros(1, 12, *shape) for shape in SHAPES]
    objectness[0][0, 1, 4, 4] = 2.0  # 32 px around (32, 32)
    objectness[0][0, 1, 4, 5] = 1.0  # 8 px to its right: an overlap of .6
    objectness[1][0, 1, 2, 2] = 3.0  # 64 px around (32, 32)
    box[1][0, 4 + 2 : 4 + 4, 2, 2] = -math.log(2)  # made 32 px
    first, second, third = (
        proposals[:4] for proposals in rpn().propose(objectness, box, [IMAGE_SIZE], 10)[0].boxes_xyxy[:3]
    )
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(third, torch.tensor([24.0, 16.0, 56.0, 48.0]))


def test_channels_are_anchor_by_anchor() -> None:
    objectness = [torch.full((1, 3, *shape), -10.0) for shape in SHAPES]
    box = [torch.zeros(1, 12, *shape) for shape in SHAPES]
    objectness[1][0, 2, 3, 4] = 5.0  # the tall anchor of 64 px at (64, 48)
    box[1][0, 8, 3, 4] = 0.1  # its dx
    (found,) = rpn(num_proposals=1).propose(objectness, box, [IMAGE_SIZE], 1)
    width, height = 64 / math.sqrt(2), 64 * math.sqrt(2)
    x = 64 + 0.1 * width
    expected = slow_clip([x - width / 2, 48 - height / 2, x + width / 2, 48 + height / 2], IMAGE_SIZE)
    torch.testing.assert_close(found.boxes_xyxy, torch.tensor([expected]))


def test_what_is_empty_or_not_a_number_is_no_proposal() -> None:
    objectness, box = random_maps(1)
    objectness[0][0, :, 0, :] = torch.nan
    box[0][0, :, 1, :] = torch.nan
    objectness[1][0, 0, 0, 0] = torch.inf
    (found,) = rpn().propose(objectness, box, [(40, 50)], 1000)
    boxes = found.boxes_xyxy
    assert len(boxes) > 20
    assert boxes.isfinite().all()
    assert found.logits.isfinite().all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert (boxes <= torch.tensor([50.0, 40.0, 50.0, 40.0])).all()


# losses


def slow_losses(
    maps: tuple[list[Tensor], list[Tensor]], assigned: list[list[int]], targets: list[dict[str, Tensor]]
) -> tuple[float, float]:
    """Sums over all anchors that are not ignored, one at a time in double precision."""
    loss_objectness, loss_box = 0.0, 0.0
    for image, (owners, target) in enumerate(zip(assigned, targets, strict=True)):
        owners = iter(owners)
        for level, (height, width) in enumerate(SHAPES):
            for row in range(height):
                for column in range(width):
                    for a, ratio in enumerate(RATIOS):
                        owner = next(owners)
                        logit = maps[0][level][image, a, row, column].item()
                        if owner == -2:
                            continue
                        loss_objectness += math.log1p(math.exp(-logit if owner >= 0 else logit))
                        if owner < 0:
                            continue
                        x1, y1, x2, y2 = target["boxes"][owner].tolist()
                        side = 4 * STRIDES_PX[level]
                        aw, ah = side / math.sqrt(ratio), side * math.sqrt(ratio)
                        ax, ay = column * STRIDES_PX[level], row * STRIDES_PX[level]
                        wanted = (
                            ((x1 + x2) / 2 - ax) / aw,
                            ((y1 + y2) / 2 - ay) / ah,
                            math.log((x2 - x1) / aw),
                            math.log((y2 - y1) / ah),
                        )
                        for i, value in enumerate(wanted):
                            loss_box += abs(maps[1][level][image, 4 * a + i, row, column].item() - value)
    return loss_objectness, loss_box


def test_losses_of_all_anchors_against_loops() -> None:
    maps = random_maps(2)
    targets = [random_objects(5), NOTHING]
    network = rpn(rpn_batch_size=10**5, rpn_positive_fraction=0.5)
    theirs = torchvisions(10, 10, 0.7)
    anchors = all_boxes(network.anchor_grids(maps[0]), CPU)
    labels, boxes = theirs.assign_targets_to_anchors([anchors, anchors], targets)
    owners = [
        [
            -2 if label < 0 else -1 if label == 0 else target["boxes"].tolist().index(box)
            for label, box in zip(*each, strict=True)
        ]
        for target, *each in zip(
            targets, [label.tolist() for label in labels], [box.tolist() for box in boxes], strict=True
        )
    ]
    assert {-1, -2} < set(owners[0])
    expected = slow_losses(maps, owners, targets)
    losses = network.losses(*maps, targets)
    for value, total in zip(losses, expected, strict=True):
        assert value.item() == pytest.approx(total / (10**5 * 2), rel=1e-5)


def test_losses_are_divided_by_the_number_that_may_be_sampled() -> None:
    # every logit is 0: each anchor sampled costs log 2, whichever it is
    maps = [torch.zeros(2, 3, *shape) for shape in SHAPES], [torch.zeros(2, 12, *shape) for shape in SHAPES]
    available = 3 * sum(height * width for height, width in SHAPES)
    few = rpn(rpn_batch_size=64).losses(*maps, [OBJECTS, NOTHING])[0]
    assert few.item() == pytest.approx(math.log(2))
    many = rpn(rpn_batch_size=10 * available).losses(*maps, [NOTHING, NOTHING])[0]
    assert many.item() == pytest.approx(math.log(2) / 10)


def test_no_more_than_half_of_the_sample_is_positive() -> None:
    objectness, box = random_maps(1)
    target = random_objects(60)
    leaves = [level.requires_grad_() for level in objectness]
    torch.manual_seed(0)
    rpn(rpn_batch_size=20).losses(leaves, box, [target])[0].backward()
    gradients = torch.cat([level.grad.flatten() for level in leaves])
    assert (gradients < 0).sum() == 10  # pushed up
    assert (gradients > 0).sum() == 10


def test_the_default_conventions_are_those_of_the_official_configuration() -> None:
    config = FasterRCNNConfig()
    network = RegionProposals(config, 256, (4, 8, 16, 32, 64))
    grids = network.anchor_grids([torch.zeros(1, 3, 1, 1)] * 5)
    assert [grid.side_px for grid in grids] == [32, 64, 128, 256, 512]
    shapes = {name: tuple(value.shape) for name, value in network.named_parameters() if name.endswith("weight")}
    assert shapes == {
        "conv.weight": (256, 256, 3, 3),
        "objectness.weight": (3, 256, 1, 1),
        "box.weight": (12, 256, 1, 1),
    }
