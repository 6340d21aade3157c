"""Small detectors whose answers mean something to compare: many detections, offsets that are not zero."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from dyzoo.config import (
    ATSSConfig,
    BackboneConfig,
    DetectorConfig,
    DyHeadConfig,
    FasterRCNNConfig,
    FCOSConfig,
    FPNConfig,
    GroundedATSSConfig,
    HeadConfig,
    PreprocessConfig,
    RetinaNetConfig,
)
from dyzoo.model.detector import Detector

HEADS: dict[str, HeadConfig] = {
    "atss": ATSSConfig(score_threshold=0.001, max_detections=300),
    "grounded_atss": GroundedATSSConfig(score_threshold=0.001, max_detections=300, tokens_per_class=(3, 1)),
    "retinanet": RetinaNetConfig(num_convs=1, score_threshold=0.001, max_detections=20),
    "fcos": FCOSConfig(num_convs=1, score_threshold=0.001, max_detections=300),
    "faster_rcnn": FasterRCNNConfig(hidden_features=32, score_threshold=0.001, num_proposals=200),
}


def small_detector(head: str, backbone: str = "resnet10t", channel_order: Any = "RGB", **dyhead: Any) -> Detector:
    """A detector of 16 channels and one block; `dyhead` are fields of its `DyHeadConfig`."""
    torch.manual_seed(0)
    fpn = FPNConfig(channels=16)
    if head == "faster_rcnn":
        fpn = replace(fpn, finest_stride=4, top="pool")
    config = DetectorConfig(
        labels=("a", "b"),
        backbone=BackboneConfig(backbone),
        fpn=fpn,
        dyhead=DyHeadConfig(channels=16, num_blocks=1, **dyhead),
        head=HEADS[head],
        preprocess=PreprocessConfig(shortest_edge=128, longest_edge=256, channel_order=channel_order, size_divisor=32),
    )
    model = Detector(config).eval()
    with torch.no_grad():
        for name, parameter in model.head.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(20 if "box" not in name else 5)
        for name, parameter in model.dyhead.named_parameters():
            if name.endswith("offset_weight"):
                torch.nn.init.normal_(parameter, std=0.3)
    return model
