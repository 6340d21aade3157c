"""Detection heads: raw predictions, losses and decoding over the attended feature levels."""

from __future__ import annotations

from dyzoo.config import ATSSConfig, FasterRCNNConfig, FCOSConfig, GroundedATSSConfig, HeadConfig, RetinaNetConfig
from dyzoo.model.heads.atss import ATSSHead
from dyzoo.model.heads.base import Head
from dyzoo.model.heads.faster_rcnn import FasterRCNNHead
from dyzoo.model.heads.fcos import FCOSHead
from dyzoo.model.heads.grounded_atss import GroundedATSSHead
from dyzoo.model.heads.retinanet import RetinaNetHead

__all__ = ["ATSSHead", "FCOSHead", "FasterRCNNHead", "GroundedATSSHead", "Head", "RetinaNetHead", "build_head"]


def build_head(config: HeadConfig, channels: int, num_classes: int, strides_px: tuple[int, ...]) -> Head:
    """The head that `config` describes, over levels of `channels` channels."""
    match config:
        case GroundedATSSConfig():  # which is an ATSSConfig too
            return GroundedATSSHead(config, channels, num_classes, strides_px)
        case ATSSConfig():
            return ATSSHead(config, channels, num_classes, strides_px)
        case RetinaNetConfig():
            return RetinaNetHead(config, channels, num_classes, strides_px)
        case FCOSConfig():
            return FCOSHead(config, channels, num_classes, strides_px)
        case FasterRCNNConfig():
            return FasterRCNNHead(config, channels, num_classes, strides_px)
    raise ValueError(f"head is {config!r}, expected one of the configurations in dyzoo.config")
