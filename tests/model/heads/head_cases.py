"""Small heads of every kind, with features and objects for them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dyzoo.config import ATSSConfig, FasterRCNNConfig, FCOSConfig, GroundedATSSConfig, HeadConfig, RetinaNetConfig
from dyzoo.model.heads import Head, build_head

CHANNELS, CLASSES = 16, 3
STRIDES_PX = (8, 16, 32)
SHAPES = ((12, 15), (6, 8), (3, 4))
IMAGE_SIZE = (96, 120)
MAX_LOG_GROWTH = math.log(1000 / 16)  # a side grows at most so much from its anchor

CONFIGS: dict[str, HeadConfig] = {
    "atss": ATSSConfig(),
    "grounded_atss": GroundedATSSConfig(tokens_per_class=(2, 1, 3)),
    "retinanet": RetinaNetConfig(num_convs=1),
    "fcos": FCOSConfig(num_convs=1),
    "faster_rcnn": FasterRCNNConfig(hidden_features=32, anchor_scale=4.0),
}
LOSSES = {
    "atss": {"loss_cls", "loss_box", "loss_centerness"},
    "grounded_atss": {"loss_cls", "loss_box", "loss_centerness"},
    "retinanet": {"loss_cls", "loss_box"},
    "fcos": {"loss_cls", "loss_box", "loss_centerness"},
    "faster_rcnn": {"loss_objectness", "loss_rpn_box", "loss_cls", "loss_box"},
}

OBJECTS = {
    "boxes": torch.tensor([[5.0, 5.0, 60.0, 70.0], [50.0, 20.0, 118.0, 90.0], [1.0, 2.0, 110.0, 93.0]]),
    "labels": torch.tensor([0, 2, 1]),
}
NOTHING = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


def make_head(kind: str, num_classes: int = CLASSES, strides_px: tuple[int, ...] = STRIDES_PX, **settings: Any) -> Head:
    """A head of that kind with weights of its own initialisation, the same every time."""
    torch.manual_seed(0)
    config = CONFIGS[kind]
    if isinstance(config, GroundedATSSConfig):
        config = replace(config, tokens_per_class=config.tokens_per_class[:num_classes])
    return build_head(replace(config, **settings), CHANNELS, num_classes, strides_px)


def spread_out(head: Head) -> Head:
    """Larger weights: predictions that differ from anchor to anchor, scores on both sides of every threshold."""
    factors = {"cls": 20, "objectness": 20, "centerness": 20, "box": 5, "conv": 10}
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            if parameter.ndim > 1:
                # by the name of the layer; that of a tower is a number
                parameter.mul_(factors.get(name.split(".")[-2], 10 if parameter.ndim == 4 else 2))
    return head


def make_features(batch: int = 1, seed: int = 1, shapes: Sequence[tuple[int, int]] = SHAPES) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, CHANNELS, *shape, generator=generator) for shape in shapes]


def random_objects(
    count: int, seed: int = 0, image_size: tuple[int, int] = IMAGE_SIZE, num_classes: int = CLASSES
) -> dict[str, Tensor]:
    """Boxes of many sizes inside the image, at least 2 px on a side."""
    generator = torch.Generator().manual_seed(seed)
    height, width = image_size
    limits = torch.tensor([width, height], dtype=torch.float32)
    sizes = 2 + torch.rand(count, 2, generator=generator) ** 2 * (limits - 2)
    top_left = torch.rand(count, 2, generator=generator) * (limits - sizes)
    labels = torch.randint(num_classes, (count,), generator=generator)
    return {"boxes": torch.cat([top_left, top_left + sizes], dim=1), "labels": labels}


def assert_gradients(module: nn.Module) -> None:
    """Every parameter has a gradient, and it is finite."""
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def assert_sound(found: dict[str, Tensor], image_size: tuple[int, int], num_classes: int, most: int) -> None:
    """Detections lie inside the image and have an area, the likeliest first, and there are no more than `most`."""
    (height, width), boxes, scores, labels = image_size, found["boxes"], found["scores"], found["labels"]
    assert 0 < len(boxes) == len(scores) == len(labels) <= most
    assert (boxes >= 0).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert (boxes <= torch.tensor([width, height, width, height])).all()
    assert (scores[:-1] >= scores[1:]).all()
    assert ((scores > 0) & (scores <= 1)).all()
    assert ((labels >= 0) & (labels < num_classes)).all()
    assert labels.dtype == torch.int64


class _Sizes(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self.largest = max(self.largest, value.untyped_storage().nbytes())
        return result


@contextmanager
def tensor_sizes() -> Iterator[_Sizes]:
    """Watch every tensor that is made inside; `largest` is the most bytes that one of them holds."""
    with _Sizes() as sizes:
        yield sizes


def slow_iou(first: Sequence[float], second: Sequence[float]) -> float:
    """IoU of two boxes, in double precision."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    intersection = max(width, 0.0) * max(height, 0.0)
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (first, second)]
    return intersection / (sum(areas) - intersection) if intersection else 0.0


def slow_nms(
    candidates: list[tuple[list[float], float, int]], threshold: float
) -> list[tuple[list[float], float, int]]:
    """Greedy suppression within each group of (box, score, group), the highest score first."""
    kept: list[tuple[list[float], float, int]] = []
    for box, score, group in sorted(candidates, key=lambda candidate: -candidate[1]):
        if all(group != other or slow_iou(box, winner) <= threshold for winner, _, other in kept):
            kept.append((box, score, group))
    return kept


def slow_clip(box: Sequence[float], image_size: tuple[int, int]) -> list[float]:
    height, width = image_size
    x1, x2 = (min(max(value, 0.0), width) for value in (box[0], box[2]))
    y1, y2 = (min(max(value, 0.0), height) for value in (box[1], box[3]))
    return [x1, y1, x2, y2]


def is_empty(box: Sequence[float]) -> bool:
    return box[2] <= box[0] or box[3] <= box[1]
