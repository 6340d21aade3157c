"""Detectors that are small enough for tests, with random weights, the same every time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from dyzoo.config import (
    ATSSConfig,
    DetectorConfig,
    DyHeadConfig,
    FasterRCNNConfig,
    FCOSConfig,
    FPNConfig,
    GroundedATSSConfig,
    HeadConfig,
    RetinaNetConfig,
)
from dyzoo.model.detector import Detector
from dyzoo.zoo.names import model_config

HEADS: dict[str, HeadConfig] = {
    "atss": ATSSConfig(score_threshold=0.0),
    "grounded_atss": GroundedATSSConfig(score_threshold=0.0),
    "retinanet": RetinaNetConfig(num_convs=1, score_threshold=0.0),
    "fcos": FCOSConfig(score_threshold=0.0),
    "faster_rcnn": FasterRCNNConfig(hidden_features=32, num_proposals=40, score_threshold=0.0),
}

SAVED_FILES = {"README.md", "config.json", "model.safetensors", "modeling_dyzoo.py", "preprocessor_config.json"}
"""Names of the files that `save_pretrained` writes."""


def narrow_config(sizes_px: tuple[int, int] | None = None, **changes: Any) -> DetectorConfig:
    """`dyhead_atss_resnet10t` with one block of 32 channels.

    Args:
        sizes_px: shortest and longest edge of the images; None leaves the architecture's.
        changes: other fields of the configuration.
    """
    config = model_config("dyhead_atss_resnet10t")
    if sizes_px is not None:
        edges = dict(zip(("shortest_edge", "longest_edge"), sizes_px, strict=True))
        config = replace(config, preprocess=replace(config.preprocess, **edges))
    narrow = {"fpn": FPNConfig(channels=32), "dyhead": DyHeadConfig(channels=32, num_blocks=1)}
    return replace(config, **{**narrow, **changes})


def narrow_detector(sizes_px: tuple[int, int] | None = None, **changes: Any) -> Detector:
    """A detector of `narrow_config`, for evaluation."""
    torch.manual_seed(0)
    return Detector(narrow_config(sizes_px, **changes)).eval()


def eager_detector(max_detections: int = 5) -> Detector:
    """A small detector of "red" and "blue" that finds things everywhere, and keeps so many."""
    head = ATSSConfig(prior_probability=0.9, max_detections=max_detections)
    return narrow_detector((64, 128), labels=("red", "blue"), head=head)


def detector_with_head(kind: str, form: str = "pyramid") -> Detector:
    """A small detector of "cat" and "dog" with one of `HEADS`."""
    return narrow_detector(
        (96, 160),
        labels=("cat", "dog"),
        fpn=FPNConfig(channels=32, **({"finest_stride": 4, "top": "pool"} if kind == "faster_rcnn" else {})),
        dyhead=DyHeadConfig(channels=32, num_blocks=1, form=form),  # type: ignore[arg-type]
        head=HEADS[kind],
    )
