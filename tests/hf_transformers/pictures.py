"""Drawn pictures, and small detectors with every head."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from dyzoo.config import (
    ATSSConfig,
    FasterRCNNConfig,
    FCOSConfig,
    FPNConfig,
    GroundedATSSConfig,
    HeadConfig,
    RetinaNetConfig,
)
from dyzoo.model.detector import Detector
from tests.model.narrow_detectors import narrow_detector

if TYPE_CHECKING:
    from dyzoo.hf_transformers import DyzooImageProcessor


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Smooth colours with some grain, the same every time."""
    generator = np.random.default_rng(height * width + channels)
    coarse = generator.integers(0, 256, (3, 4, channels), dtype=np.uint8)
    small = Image.fromarray(coarse if channels > 1 else coarse[..., 0])
    pixels = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    grain = generator.integers(-30, 30, pixels.shape)
    return (pixels + grain).clip(0, 255).astype(np.uint8)


HEADS: dict[str, HeadConfig] = {
    "atss": ATSSConfig(prior_probability=0.9, max_detections=7),
    "grounded_atss": GroundedATSSConfig(prior_probability=0.9, max_detections=7),
    "retinanet": RetinaNetConfig(prior_probability=0.9, max_detections=7),
    "fcos": FCOSConfig(prior_probability=0.9, max_detections=7),
}


def detector_of(head: str) -> Detector:
    """A detector of "red" and "blue" with that head, which finds seven things in any picture."""
    if head == "faster_rcnn":
        fpn = FPNConfig(channels=32, finest_stride=4, top="pool")
        config = FasterRCNNConfig(num_proposals=50, hidden_features=16, score_threshold=0.01, max_detections=7)
        return narrow_detector((64, 128), labels=("red", "blue"), head=config, fpn=fpn)
    return narrow_detector((64, 128), labels=("red", "blue"), head=HEADS[head])


def processor_of(detector: Detector) -> DyzooImageProcessor:
    """The image processor that is pushed with it."""
    from dyzoo.hf_transformers import DyzooImageProcessor

    return DyzooImageProcessor(detector.config.inclusive_corners, **asdict(detector.config.preprocess))
