"""Detection heads: raw predictions, losses and decoding over the attended feature levels."""

from __future__ import annotations

from dyzoo.config import ATSSConfig, HeadConfig
from dyzoo.heads.atss import ATSSHead
from dyzoo.heads.base import Head

__all__ = ["ATSSHead", "Head", "build_head"]


def build_head(config: HeadConfig, channels: int, num_classes: int, strides_px: tuple[int, ...]) -> Head:
    """The head that `config` describes, over levels of `channels` channels."""
    match config:
        case ATSSConfig():
            return ATSSHead(config, channels, num_classes, strides_px)
    raise ValueError(f"head is {config!r}, expected one of the configurations in dyzoo.config")
