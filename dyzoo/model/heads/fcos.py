"""The FCOS head (Tian et al., ICCV 2019): no anchors, distances to the four edges at every position."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dyzoo.config import FCOSConfig
from dyzoo.distributed import joint_normalizer
from dyzoo.model.boxes import box_centers, boxes_from_distances, centerness
from dyzoo.model.heads.anchors import AnchorGrid, all_boxes, anchor_grids
from dyzoo.model.heads.assignment import assign_fcos
from dyzoo.model.heads.base import ImageSizes, Limits, Raw, Targets, conv_tower, prediction_conv, prior_bias
from dyzoo.model.heads.dense import Candidates, DenseHead, flatten_levels, gather_positives, strongest_candidates
from dyzoo.model.heads.losses import focal_loss, giou_loss


class FCOSHead(DenseHead):
    """Class, edge distances and centerness of every position of every level.

    Layers, losses and decoding follow `torchvision.models.detection.fcos`, with DyHead's blocks in the place of its
    towers unless `num_convs` says otherwise: positions at whole multiples of the stride, distances in strides and
    at least 0, no learnt scale per level. All work in float32 whatever the dtype of the features.

    Args:
        config: layers, assignment, losses and decoding.
        channels: C of the features.
        num_classes: K.
        strides_px: stride of each level, finest first.
    """

    clip_before_nms = True

    def __init__(self, config: FCOSConfig, channels: int, num_classes: int, strides_px: tuple[int, ...]) -> None:
        super().__init__(num_classes, strides_px)
        self.config: FCOSConfig = config
        self.cls_tower = conv_tower(channels, config.num_convs, group_norm=True)
        self.box_tower = conv_tower(channels, config.num_convs, group_norm=True)
        self.cls = prediction_conv(channels, num_classes, 3, bias=prior_bias(config.prior_probability))
        self.box = prediction_conv(channels, 4, 3)
        self.centerness = prediction_conv(channels, 1, 3)

    def forward(self, features: Sequence[Tensor]) -> Raw:
        """L maps (N, C, H, W), finest first -> lists over the levels of the raw predictions.

        Returns:
            "cls" (N, K, H, W) and "centerness" (N, 1, H, W) logits; "box" (N, 4, H, W) distances to the left, top,
            right and bottom edge in units of the stride, not negative.
        """
        self.check_levels(features)
        regressed = [self.box_tower(level) for level in features]
        return {
            "cls": [self.cls(self.cls_tower(level)) for level in features],
            "box": [self.box(level).relu() for level in regressed],
            "centerness": [self.centerness(level) for level in regressed],
        }

    def losses(self, raw: Raw, targets: Targets, image_sizes: ImageSizes = ()) -> dict[str, Tensor]:
        """Scalar losses of a batch, averaged over its positive positions, those of all processes that train together.

        Returns:
            "loss_cls", "loss_box" and "loss_centerness".
        """
        cls, distances_px, centerness_logits, points = self._flatten(raw)
        config, grids = self.config, self.grids(raw)
        assigned = [assign_fcos(target["boxes"].float(), grids, config.center_sampling_radius) for target in targets]
        image, position, boxes, labels = gather_positives(torch.stack(assigned), targets)

        predicted = boxes_from_distances(points[position], distances_px[image, position])
        central = centerness(points[position], boxes)
        num_positives = joint_normalizer(len(position), 1, cls.device)
        loss_centerness = F.binary_cross_entropy_with_logits(
            centerness_logits[image, position, 0], central, reduction="sum"
        )
        return {
            "loss_cls": focal_loss(cls, labels, config.focal_alpha, config.focal_gamma) / num_positives,
            "loss_box": giou_loss(predicted, boxes, torch.ones_like(central)) / num_positives,
            "loss_centerness": loss_centerness / num_positives,
        }

    def candidates(self, raw: Raw, limits: Limits | None = None) -> Candidates:
        """Candidates of every image; a score is the square root of class probability times centerness."""
        cls, distances_px, centerness_logits, points = self._flatten(raw)
        config = self.config
        score = (cls.sigmoid() * centerness_logits.sigmoid()).sqrt()  # (N, S, K)
        return strongest_candidates(
            score,
            torch.where(score > config.score_threshold, score, -1.0),
            lambda image, position: boxes_from_distances(points[position], distances_px[image, position]),
            level_sizes=[grid.number for grid in self.grids(raw)],
            candidates_per_level=self.candidates_per_level(limits),
        )

    def grids(self, raw: Raw) -> list[AnchorGrid]:
        """The positions of each level, from the sizes of its prediction maps; their anchors are one stride wide."""
        return anchor_grids(raw["box"], self.strides_px, scale=1.0, center_offset=0.0)

    def _flatten(self, raw: Raw) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Class logits (N, S, K), distances (N, S, 4) px, centerness logits (N, S, 1) and positions (S, 2) xy px."""
        cls, distances, centerness_logits = (flatten_levels(raw[name]) for name in ("cls", "box", "centerness"))
        anchors = all_boxes(self.grids(raw), cls.device)
        strides = anchors[:, 2:3] - anchors[:, :1]
        return cls, distances * strides, centerness_logits, box_centers(anchors)
