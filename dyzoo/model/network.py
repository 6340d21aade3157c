"""The layers of a detector, and the order in which a batch passes through them."""

from __future__ import annotations

from torch import Tensor, nn

from dyzoo.dyhead import DyHead
from dyzoo.model.backbones import Backbone
from dyzoo.model.fpn import FPN
from dyzoo.model.heads.base import Head, Raw


class Network(nn.Module):
    """Backbone -> FPN -> DyHead -> head; who inherits makes them, or shares those of another."""

    backbone: Backbone
    fpn: FPN
    dyhead: DyHead
    head: Head

    def share_layers(self, other: Network) -> None:
        """Take the layers of another network, which keeps them, too."""
        self.backbone, self.fpn, self.dyhead, self.head = other.backbone, other.fpn, other.dyhead, other.head

    def forward_features(self, batch: Tensor) -> list[Tensor]:
        """Normalised, padded images (N, 3, H, W) -> the DyHead outputs, (N, C, h, w) each, finest first."""
        features: list[Tensor] = self.dyhead(self.fpn(self.backbone(batch)))
        return features

    def forward_head(self, features: list[Tensor]) -> Raw:
        """DyHead outputs -> raw predictions, a list over the levels for each kind; see the head for their shapes.

        Dense heads give `cls` and `box`, ATSS and FCOS `centerness` too; Faster R-CNN its proposal network's
        `objectness` and `box`.
        """
        raw: Raw = self.head(features)
        return raw
