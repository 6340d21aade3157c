"""The small detector of the tests of prediction."""

from __future__ import annotations

from dataclasses import replace

import torch

from dyzoo.config import ATSSConfig, DyHeadConfig, FPNConfig
from dyzoo.model.detector import Detector
from dyzoo.zoo.names import model_config


def small_detector() -> Detector:
    """A detector of two classes with random weights, for pictures of 64 x 96, in evaluation mode."""
    torch.manual_seed(0)
    config = model_config("dyhead_atss_resnet10t")
    return Detector(
        replace(
            config,
            labels=("red", "blue"),
            fpn=FPNConfig(channels=32),
            dyhead=DyHeadConfig(channels=32, num_blocks=1),
            head=ATSSConfig(prior_probability=0.9, max_detections=5),
            preprocess=replace(config.preprocess, shortest_edge=64, longest_edge=128),
        )
    ).eval()
