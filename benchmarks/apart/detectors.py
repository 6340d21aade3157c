"""Detectors of other packages beside ours: pictures in, raw predictions of every level out, random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..cases import Case
from ..providers.operators import import_or_unavailable
from ..providers.prepare import Results, Run

MMDET_CONFIG = "mmdet::dyhead/atss_r50_fpn_dyhead_1x_coco.py"


@dataclass(frozen=True)
class OtherDetector:
    """A detector that is no DyHead of ours, on ResNet-50 where ours is.

    Attributes:
        label: name in the rows.
        make: gives a function of normalised pictures (N, 3, H, W).
    """

    label: str
    make: Callable[[], Callable[[Tensor], object]]


def prepare_detector(other: OtherDetector, case: Case) -> Run:
    """A function that runs one forward pass and gives nothing to compare."""
    predict = other.make()
    images = case.activations["images"]

    def run() -> Results:
        with torch.no_grad():
            predict(images)
        return {}

    return run


def _of_torchvision(name: str) -> Callable[[], Callable[[Tensor], object]]:
    def make() -> Callable[[Tensor], object]:
        models = import_or_unavailable("torchvision.models.detection")
        model: Any = getattr(models, name)(weights=None, weights_backbone=None).eval()
        # its own preparation and suppression left out, as they are of ours
        return lambda images: model.head(list(model.backbone(images).values()))

    return make


def _of_mmdet() -> Callable[[Tensor], object]:
    import_or_unavailable("mmdet")
    model = import_or_unavailable("mmengine.hub").get_model(MMDET_CONFIG, pretrained=False).eval()
    return lambda images: model(images, mode="tensor")


DETECTORS = {
    "retinanet": OtherDetector("torchvision RetinaNet, ResNet-50", _of_torchvision("retinanet_resnet50_fpn")),
    "fcos": OtherDetector("torchvision FCOS, ResNet-50", _of_torchvision("fcos_resnet50_fpn")),
    "mmdet": OtherDetector("mmdetection ATSS with DyHead, ResNet-50", _of_mmdet),
}
