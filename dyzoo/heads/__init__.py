"""Detection heads: raw predictions, losses and decoding over the attended feature levels."""

from __future__ import annotations

from dyzoo.config import HeadConfig
from dyzoo.heads.atss import ATSSHead

__all__ = ["ATSSHead", "build_head"]


def build_head(config: HeadConfig, channels: int, num_classes: int, strides_px: tuple[int, ...]) -> ATSSHead:
    """The head that `config` describes, over levels of `channels` channels."""
    return ATSSHead(config, channels, num_classes, strides_px)
