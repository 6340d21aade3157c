"""A whole detector with random weights: pictures in, raw predictions or losses out."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import dyzoo
from dyzoo.model.detector import Detector
from dyzoo.model.optimization import OptimizedDetector

from ..work import Work, blocks_work, level_shapes
from .blocks import Stack, stir
from .case import Case, Exchangeable, Operators, Setup, rounded

ARCHITECTURE = "dyhead_atss_resnet50"
OUTPUTS = ("cls", "box", "centerness")
OBJECTS = 8  # in every picture


class RawDetector(nn.Module):
    """Everything between the normalised batch and the losses."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector: Detector | OptimizedDetector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) -> class, box and centerness of every level, in the order of `OUTPUTS`."""
        raw = self.detector.forward_head(self.detector.forward_features(images))
        return tuple(level for name in OUTPUTS for level in raw[name])


def detector(setup: Setup, name: str = ARCHITECTURE, classes: int | None = None, pretrained: bool = False) -> Case:
    """`dyzoo.create_model` with its DyHead exchangeable; gives raw outputs, in a training step losses and gradients.

    Args:
        name: an architecture, or with `pretrained` a checkpoint.
        classes: how many; None for those of the architecture or the checkpoint.
        pretrained: with the checkpoint's weights as they are; else random ones, moved as training moves them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = dyzoo.create_model(name, pretrained=pretrained, num_classes=classes)
    stack = Stack(list(model.dyhead.blocks))
    if not pretrained:
        stir(stack.blocks)
    model.dyhead = stack  # type: ignore[assignment]
    network = RawDetector(model)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(setup.batch, 3, setup.height_px, setup.width_px, generator=generator)
    work = _work(network, images, setup, model.config.dyhead.channels, len(stack.blocks))
    images = images.to(setup.precision.dtype).float().to(setup.device, memory_format=torch.channels_last)
    head, targets = model.head, _targets(setup, len(model.labels))

    def losses(outputs: Sequence[Tensor]) -> Mapping[str, Tensor]:
        count = len(outputs) // len(OUTPUTS)
        raw = {name: list(outputs[i * count : (i + 1) * count]) for i, name in enumerate(OUTPUTS)}
        return head.losses(raw, targets, [(setup.height_px, setup.width_px)] * setup.batch)

    return Case(
        "detector",
        setup,
        rounded(network.to(setup.device), setup.precision),
        {"images": images},
        work,
        losses,
        input_gradients=False,
        # In half precision, gradients through 50 layers in training mode differ by more than a wrong formula would.
        is_compared=lambda name: ".dyhead." in name or ".head." in name,
    )


def _targets(setup: Setup, classes: int) -> list[dict[str, Tensor]]:
    """Boxes of all sizes, the same in every run."""
    generator = torch.Generator().manual_seed(2)
    size_px = torch.tensor([setup.width_px, setup.height_px])
    targets = []
    for _ in range(setup.batch):
        side = torch.exp(torch.rand(OBJECTS, 2, generator=generator) * math.log(8)) / 12  # 1/12 to 2/3 of the picture
        corner = torch.rand(OBJECTS, 2, generator=generator) * (1 - side)
        boxes = torch.cat([corner * size_px, (corner + side) * size_px], dim=1)
        labels = torch.randint(classes, (OBJECTS,), generator=generator)
        targets.append({"boxes": boxes.to(setup.device), "labels": labels.to(setup.device)})
    return targets


def _work(network: nn.Module, images: Tensor, setup: Setup, channels: int, blocks: int) -> Work:
    """The blocks by formula, the rest counted by PyTorch on tensors without values; bytes are not counted."""

    def deform_conv(*args: Tensor, **kwargs: Tensor) -> Tensor:
        raise NotImplementedError

    idle = Operators(deform_conv, lambda levels, parameters: list(levels))  # type: ignore[arg-type]
    copied = copy.deepcopy(network).to("meta")
    for module in copied.modules():
        if isinstance(module, Exchangeable):
            module.operators = idle
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copied(images.to("meta"))
    shapes = level_shapes(setup.height_px, setup.width_px)
    in_blocks = blocks_work(setup.batch, shapes, channels, blocks, 1).flop
    return Work(in_blocks + counter.get_total_flops(), None)
