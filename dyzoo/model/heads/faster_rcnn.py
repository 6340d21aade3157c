"""Faster R-CNN (Ren et al., NeurIPS 2015) as a head: proposals, then their classes and boxes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dyzoo.config import FasterRCNNConfig
from dyzoo.model.heads.base import Detected, Head, ImageSizes, Limits, Raw, Targets
from dyzoo.model.heads.roi import RegionClassifier
from dyzoo.model.heads.rpn import Proposals, RegionProposals


class FasterRCNNHead(Head):
    """Two stages over the same levels: `rpn` on all of them, `roi` on those up to stride 32.

    Follows detectron2 as microsoft/DynamicHead's `dyhead_r50_rcnn_fpn_1x` runs it. Matching, pooling, losses and
    decoding work in float32 whatever the dtype of the features. What is sampled for the losses is drawn from torch's
    generator, so a seeded training repeats.

    Args:
        config: layers, anchors, matching, sampling, losses and decoding.
        channels: C of the features.
        num_classes: K.
        strides_px: stride of each level, finest first, each twice the one before.
    """

    def __init__(self, config: FasterRCNNConfig, channels: int, num_classes: int, strides_px: tuple[int, ...]) -> None:
        super().__init__(num_classes, strides_px)
        self.config = config
        self.rpn = RegionProposals(config, channels, strides_px)
        self.roi = RegionClassifier(config, channels, num_classes, strides_px)

    def forward(self, features: Sequence[Tensor]) -> Raw:
        """L maps (N, C, H, W), finest first -> predictions, which the two methods below start from.

        Returns:
            "objectness" (N, A, H, W) logits and "box" (N, A * 4, H, W) deltas of the proposal network, and "features",
            the maps themselves, which the second stage pools from.
        """
        self.check_levels(features)
        objectness, box = self.rpn(features)
        return {"objectness": objectness, "box": box, "features": list(features)}

    def losses(self, raw: Raw, targets: Targets, image_sizes: ImageSizes) -> dict[str, Tensor]:
        """Scalar losses of a batch, on anchors and proposals drawn at random.

        Returns:
            "loss_objectness" and "loss_rpn_box" of the first stage, "loss_cls" and "loss_box" of the second.
        """
        loss_objectness, loss_rpn_box = self.rpn.losses(raw["objectness"], raw["box"], targets)
        proposals = self.propose(raw, image_sizes, self.config.rpn_candidates_train)
        loss_cls, loss_box = self.roi.losses(raw["features"], [boxes for boxes, _ in proposals], targets)
        return {
            "loss_objectness": loss_objectness,
            "loss_rpn_box": loss_rpn_box,
            "loss_cls": loss_cls,
            "loss_box": loss_box,
        }

    def detect(self, raw: Raw, image_sizes: ImageSizes, limits: Limits | None = None) -> list[Detected]:
        """Detections of every image; a score is the softmax probability of the class."""
        if not image_sizes:
            return []
        config = self.config
        limits = limits or Limits.of(config)
        proposals = self.propose(
            raw,
            image_sizes,
            limits.candidates(config, config.rpn_candidates_test),
            limits.candidates(config, config.num_proposals),
        )
        return self.roi.decode(raw["features"], [boxes for boxes, _ in proposals], image_sizes, limits)

    def propose(
        self, raw: Raw, image_sizes: ImageSizes, candidates_per_level: int, num_proposals: int | None = None
    ) -> list[Proposals]:
        """The first stage's boxes of each image, the likeliest first; no gradient flows through them."""
        return self.rpn.propose(raw["objectness"], raw["box"], image_sizes, candidates_per_level, num_proposals)
