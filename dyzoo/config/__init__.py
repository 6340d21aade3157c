"""All settings, as frozen dataclasses without torch: those of a detector and those of a training run."""

from dyzoo.config.detector import (
    ATSSConfig,
    BackboneConfig,
    DetectorConfig,
    DyHeadConfig,
    FasterRCNNConfig,
    FCOSConfig,
    FPNConfig,
    GroundedATSSConfig,
    HeadConfig,
    RetinaNetConfig,
)
from dyzoo.config.preprocess import PreprocessConfig, TrainingScale
from dyzoo.config.training import TrainConfig, TransformConfig

__all__ = [
    "ATSSConfig",
    "BackboneConfig",
    "DetectorConfig",
    "DyHeadConfig",
    "FCOSConfig",
    "FPNConfig",
    "FasterRCNNConfig",
    "GroundedATSSConfig",
    "HeadConfig",
    "PreprocessConfig",
    "RetinaNetConfig",
    "TrainConfig",
    "TrainingScale",
    "TransformConfig",
]
