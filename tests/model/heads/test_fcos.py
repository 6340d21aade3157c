"""The FCOS head against torchvision's: the same layers, losses and detections from the same numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator

from dyzoo.config import FCOSConfig
from dyzoo.model.heads import FCOSHead
from dyzoo.model.heads.anchors import AnchorGrid
from dyzoo.model.heads.assignment import assign_fcos
from dyzoo.model.heads.losses import BACKGROUND
from tests.model.heads.head_cases import (
    CHANNELS,
    CLASSES,
    IMAGE_SIZE,
    NOTHING,
    OBJECTS,
    SHAPES,
    STRIDES_PX,
    make_features,
    make_head,
    random_objects,
    slow_iou,
    spread_out,
)

WIDTH = 64  # the fewest channels whose 32 groups have more than one


def fcos(**settings: object) -> FCOSHead:
    head = make_head("fcos", **settings)
    assert isinstance(head, FCOSHead)
    return head


class Torchvisions:
    """torchvision's FCOS over our maps."""

    def __init__(self, num_classes: int = CLASSES, **settings: object) -> None:
        backbone = nn.Identity()
        backbone.out_channels = WIDTH
        anchors = AnchorGenerator(tuple((stride,) for stride in STRIDES_PX), ((1.0,),) * len(STRIDES_PX))
        self.model = FCOS(backbone, num_classes, anchor_generator=anchors, score_thresh=0.05, **settings)

    def anchors(self, maps: list[Tensor]) -> list[Tensor]:
        """The anchors of each image, (S, 4)."""
        generator = self.model.anchor_generator
        generator.set_cell_anchors(torch.float32, torch.device("cpu"))
        strides = [[torch.tensor(stride)] * 2 for stride in STRIDES_PX]
        return [torch.cat(generator.grid_anchors([level.shape[-2:] for level in maps], strides))] * len(maps[0])

    @staticmethod
    def outputs(raw: dict[str, list[Tensor]]) -> dict[str, Tensor]:
        names = {"cls": "cls_logits", "box": "bbox_regression", "centerness": "bbox_ctrness"}
        return {
            theirs: torch.cat([level.permute(0, 2, 3, 1).flatten(1, 2) for level in raw[ours]], dim=1)
            for ours, theirs in names.items()
        }

    def losses(self, raw: dict[str, list[Tensor]], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        sizes = [level.shape[2] * level.shape[3] for level in raw["cls"]]
        losses = self.model.compute_loss(targets, self.outputs(raw), self.anchors(raw["cls"]), sizes)
        names = {"loss_cls": "classification", "loss_box": "bbox_regression", "loss_centerness": "bbox_ctrness"}
        return {ours: losses[theirs] for ours, theirs in names.items()}

    def detections(self, raw: dict[str, list[Tensor]], image_sizes: list[tuple[int, int]]) -> list[dict[str, Tensor]]:
        sizes = [level.shape[2] * level.shape[3] for level in raw["cls"]]
        outputs = {name: list(value.split(sizes, dim=1)) for name, value in self.outputs(raw).items()}
        anchors = [list(anchors.split(sizes)) for anchors in self.anchors(raw["cls"])]
        return self.model.postprocess_detections(outputs, anchors, image_sizes)


def random_raw(batch: int, num_classes: int = CLASSES, seed: int = 0) -> dict[str, list[Tensor]]:
    """Predictions all over the range, boxes never empty."""
    generator = torch.Generator().manual_seed(seed)

    def maps(channels: int) -> list[Tensor]:
        return [torch.randn(batch, channels, *shape, generator=generator) for shape in SHAPES]

    return {
        "cls": [level * 2 - 2 for level in maps(num_classes)],
        "box": [level.exp() * 2 for level in maps(4)],
        "centerness": maps(1),
    }


# layers


@pytest.mark.parametrize("num_convs", [0, 2])
def test_layers_are_torchvisions(num_convs: int) -> None:
    theirs = Torchvisions().model.head
    ours = FCOSHead(FCOSConfig(num_convs=num_convs), WIDTH, CLASSES, STRIDES_PX)
    cls, regression = theirs.classification_head, theirs.regression_head
    cls.conv, regression.conv = (tower[: 3 * num_convs] for tower in (cls.conv, regression.conv))
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    cls.load_state_dict({**prefixed(ours.cls_tower, "conv"), **prefixed(ours.cls, "cls_logits")})
    regression.load_state_dict(
        {
            **prefixed(ours.box_tower, "conv"),
            **prefixed(ours.box, "bbox_reg"),
            **prefixed(ours.centerness, "bbox_ctrness"),
        }
    )
    features = [torch.randn(2, WIDTH, *shape) for shape in SHAPES]
    outputs = Torchvisions.outputs(ours(features))
    for name, value in theirs(features).items():
        torch.testing.assert_close(outputs[name], value)


def prefixed(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": value for name, value in module.state_dict().items()}


def test_a_new_head_gives_every_class_the_prior_probability() -> None:
    raw = fcos(prior_probability=0.02)([torch.zeros_like(level) for level in make_features()])
    for level in raw["cls"]:
        torch.testing.assert_close(level.sigmoid(), torch.full_like(level, 0.02))


# losses


@pytest.mark.parametrize("num_classes", [1, CLASSES])
@pytest.mark.parametrize("count", [1, 10, 200])
def test_losses_are_torchvisions(count: int, num_classes: int) -> None:
    raw = random_raw(3, num_classes)
    targets = [random_objects(count, seed, num_classes=num_classes) for seed in (1, 2)] + [NOTHING]
    expected = Torchvisions(num_classes).losses(raw, targets)
    losses = make_head("fcos", num_classes).losses(raw, targets, [IMAGE_SIZE] * 3)
    assert set(losses) == set(expected)
    for name, value in losses.items():
        assert value > 0
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=0)


def test_gradients_are_torchvisions() -> None:
    gradients = []
    for losses_of in (fcos().losses, Torchvisions().losses):
        raw = {name: [level.requires_grad_() for level in levels] for name, levels in random_raw(1).items()}
        torch.stack(list(losses_of(raw, [random_objects(10)]).values())).sum().backward()
        gradients.append([level.grad for levels in raw.values() for level in levels])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_losses_of_one_position_by_hand() -> None:
    head = FCOSHead(FCOSConfig(), CHANNELS, num_classes=2, strides_px=(8,))
    raw = {"cls": [torch.zeros(1, 2, 1, 1)], "box": [torch.ones(1, 4, 1, 1)], "centerness": [torch.zeros(1, 1, 1, 1)]}
    # the prediction is 8 px around (0, 0); the object reaches 4 px to the left and to the top, 12 to the others
    losses = head.losses(raw, [{"boxes": torch.tensor([[-4.0, -4.0, 12.0, 12.0]]), "labels": torch.tensor([1])}])
    iou = slow_iou([-8, -8, 8, 8], [-4, -4, 12, 12])
    enclosing, union = 20**2, 2 * 16**2 - 12**2
    assert losses["loss_box"].item() == pytest.approx(1 - iou + (enclosing - union) / enclosing)
    assert losses["loss_cls"].item() == pytest.approx((0.25 + 0.75) * 0.5**2 * math.log(2))
    assert losses["loss_centerness"].item() == pytest.approx(math.log(2))  # whatever the target, at probability 1/2


# decoding


@pytest.mark.parametrize("num_classes", [1, CLASSES])
@pytest.mark.parametrize("topk", [1000, 20])
def test_detections_are_torchvisions(topk: int, num_classes: int) -> None:
    raw, sizes = random_raw(2, num_classes), [IMAGE_SIZE, (64, 100)]
    expected = Torchvisions(num_classes, topk_candidates=topk).detections(raw, sizes)
    found = make_head("fcos", num_classes, candidates_per_level=topk).decode(raw, sizes)
    for ours, theirs in zip(found, expected, strict=True):
        # torchvision keeps boxes of the padding as lines along the image's edge
        solid = (theirs["boxes"][:, 2:] > theirs["boxes"][:, :2]).all(dim=1)
        assert solid.sum() > 30
        count = int(solid.sum())
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name][:count], value[solid], msg=name)


def test_the_score_is_the_root_of_class_times_centerness() -> None:
    head = FCOSHead(FCOSConfig(), CHANNELS, 2, (8,))
    raw = {
        "cls": [torch.full((1, 2, 2, 3), -20.0)],
        "box": [torch.ones(1, 4, 2, 3)],
        "centerness": [torch.zeros(1, 1, 2, 3)],
    }
    raw["cls"][0][0, 1, 1, 2] = math.log(9)  # 0.9
    raw["centerness"][0][0, 0, 1, 2] = -math.log(3)  # 1/4
    raw["box"][0][0, :, 1, 2] = torch.tensor([1.0, 0.5, 0.25, 2.0])
    found = head.decode(raw, [(24, 20)])[0]
    torch.testing.assert_close(found["scores"], torch.tensor([math.sqrt(0.9 * 0.25)]))
    torch.testing.assert_close(found["boxes"], torch.tensor([[8.0, 4.0, 18.0, 24.0]]))
    assert found["labels"].tolist() == [1]


def test_a_new_head_finds_nothing_in_boxes_without_extent() -> None:
    raw = random_raw(1)
    raw["box"] = [torch.zeros_like(level) for level in raw["box"]]
    assert len(fcos().decode(raw, [IMAGE_SIZE])[0]["boxes"]) == 0


def test_decoding_leaves_the_predictions_as_they_are() -> None:
    raw = spread_out(fcos())(make_features())
    before = {name: [level.detach().clone() for level in levels] for name, levels in raw.items()}
    fcos().decode(raw, [IMAGE_SIZE])
    fcos().losses(raw, [OBJECTS])
    for name, levels in raw.items():
        assert all(torch.equal(level, old) for level, old in zip(levels, before[name], strict=True))


# assignment


def grids_of(*shapes: tuple[int, int]) -> list[AnchorGrid]:
    strides = [8 * 2**level for level in range(len(shapes))]
    return [AnchorGrid(h, w, stride, stride, 0.0) for (h, w), stride in zip(shapes, strides, strict=True)]


def assign_slowly(objects: list[list[float]], grids: list[AnchorGrid], radius: float) -> list[int]:
    assigned = []
    for level, grid in enumerate(grids):
        lower = 4 * grid.stride_px if level else 0
        upper = 8 * grid.stride_px if level < len(grids) - 1 else math.inf
        for row in range(grid.height):
            for column in range(grid.width):
                x, y = column * grid.stride_px, row * grid.stride_px
                wanted = []
                for index, (x1, y1, x2, y2) in enumerate(objects):
                    distances = (x - x1, y - y1, x2 - x, y2 - y)
                    offset = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2))
                    if min(distances) > 0 and lower < max(distances) < upper and offset < radius * grid.stride_px:
                        wanted.append(((x2 - x1) * (y2 - y1), index))
                assigned.append(min(wanted)[1] if wanted else BACKGROUND)
    return assigned


@pytest.mark.parametrize("radius", [0.4, 1.0, 1.5, 2.2, 5.0])
def test_assignment_against_loops(radius: float) -> None:
    grids = grids_of((13, 19), (7, 10), (4, 5), (2, 3), (1, 1))
    boxes = random_objects(25, seed=5, image_size=(104, 152))["boxes"]
    assigned = assign_fcos(boxes, grids, radius)
    assert assigned.tolist() == assign_slowly(boxes.tolist(), grids, radius)
    assert len(assigned.unique()) > 4


def test_an_object_in_the_middle_of_a_cell_has_no_more_than_its_candidates() -> None:
    # around a position three columns are nearer than 1.5 strides; between two of them the bound itself is out
    grids = grids_of((9, 9))
    for center, side in ((32.0, 3), (36.0, 2)):
        box = torch.tensor([[center - 30, center - 30, center + 30, center + 30]])
        assert (assign_fcos(box, grids, 1.5) == 0).sum() == side**2


def test_levels_share_objects_by_their_reach() -> None:
    grids = grids_of((32, 32), (16, 16), (8, 8))
    for side, level in ((40.0, 0), (120.0, 0), (200.0, 1), (240.0, 1), (250.0, 2)):
        box = torch.tensor([[128 - side / 2, 128 - side / 2, 128 + side / 2, 128 + side / 2]])
        owners = [owner.any().item() for owner in (assign_fcos(box, grids, 1.5) == 0).split([len(g) for g in grids])]
        assert owners[level], side


def test_the_smallest_object_wins_and_the_first_of_equal_ones() -> None:
    grids = grids_of((9, 9))
    large, small = [10.0, 10.0, 54.0, 54.0], [20.0, 20.0, 44.0, 44.0]
    for boxes, winner in (([large, small], 1), ([small, large], 0), ([large, large], 0)):
        assigned = assign_fcos(torch.tensor(boxes), grids, 1.5)
        assert assigned[4 * 9 + 4] == winner


def test_a_position_on_the_edge_of_an_object_is_not_inside() -> None:
    owners = assign_fcos(torch.tensor([[32.0, 20.0, 44.0, 60.0]]), grids_of((9, 9)), 1.5).view(9, 9)
    assert (owners == 0).nonzero().tolist() == [[4, 5], [5, 5], [6, 5]]


def test_areas_beyond_float32s_reach_still_get_an_object() -> None:
    grids = grids_of((3, 3))
    assert (assign_fcos(torch.tensor([[-2e4, -2e4, 2e4, 2e4]]), grids, 1.5) == 0).any()


def test_without_objects_all_is_background() -> None:
    assert (assign_fcos(torch.zeros(0, 4), grids_of((3, 4), (2, 2)), 1.5) == BACKGROUND).all()
