"""The ATSS head (Zhang et al., CVPR 2020) without a tower: DyHead's blocks stand in for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyzoo.config import ATSSConfig
from dyzoo.distributed import joint_normalizer
from dyzoo.model.boxes import box_centers, centerness, decode_boxes
from dyzoo.model.heads.anchors import AnchorGrid, all_boxes, anchor_grids
from dyzoo.model.heads.assignment import assign_atss
from dyzoo.model.heads.base import ImageSizes, Limits, Raw, Targets, prediction_conv, prior_bias
from dyzoo.model.heads.dense import Candidates, DenseHead, flatten_levels, gather_positives, strongest_candidates
from dyzoo.model.heads.losses import focal_loss, giou_loss

SMALLEST_SUM = torch.finfo(torch.float32).eps  # keeps 0 / 0 out of a batch without objects


class ATSSHead(DenseHead):
    """Class, box and centerness of one square anchor per position of every level.

    Losses and decoding follow microsoft/DynamicHead's `extra/atss.py`; `config` also reaches mmdetection's
    `ATSSHead`. Both work in float32 whatever the dtype of the features.

    Args:
        config: layers, assignment, losses and decoding.
        channels: C of the features.
        num_classes: K.
        strides_px: stride of each level, finest first.
    """

    def __init__(self, config: ATSSConfig, channels: int, num_classes: int, strides_px: tuple[int, ...]) -> None:
        super().__init__(num_classes, strides_px)
        self.config: ATSSConfig = config
        prior = prior_bias(config.prior_probability)
        self.cls = prediction_conv(channels, self.num_class_outputs, config.kernel_size, bias=prior)
        self.box = prediction_conv(channels, 4, config.kernel_size)
        self.centerness = prediction_conv(channels, 1, config.kernel_size)
        self.box_scales = nn.Parameter(torch.ones(len(strides_px)))

    @property
    def num_class_outputs(self) -> int:
        """Number of the class layer's outputs."""
        return self.num_classes

    def forward(self, features: Sequence[Tensor]) -> Raw:
        """L maps (N, C, H, W), finest first -> lists over the levels of the raw predictions.

        Returns:
            "cls" (N, K, H, W) and "centerness" (N, 1, H, W) logits; "box" (N, 4, H, W) weighted deltas.
        """
        self.check_levels(features)
        return {
            "cls": [self.cls(level) for level in features],
            "box": [self.box(level) * scale for level, scale in zip(features, self.box_scales, strict=True)],
            "centerness": [self.centerness(level) for level in features],
        }

    def losses(self, raw: Raw, targets: Targets, image_sizes: ImageSizes = ()) -> dict[str, Tensor]:
        """Scalar losses of a batch, averaged over its positive anchors, those of all processes that train together.

        Returns:
            "loss_cls", "loss_box" and "loss_centerness".
        """
        deltas, centerness_logits = (flatten_levels(raw[name]) for name in ("box", "centerness"))
        cls = self.class_logits(raw)
        config, grids = self.config, self.anchor_grids(raw)
        assigned = [assign_atss(target["boxes"].float(), grids, config.num_candidates) for target in targets]
        image, anchor, boxes, labels = gather_positives(torch.stack(assigned), targets)
        anchors = all_boxes(grids, cls.device)[anchor]  # (P, 4) of the positive ones

        predicted = decode_boxes(deltas[image, anchor], anchors, config.box_code_weights)
        central = centerness(box_centers(anchors), boxes)
        num_positives = joint_normalizer(len(anchor), 1, cls.device)
        loss_box = giou_loss(predicted, boxes, central) / joint_normalizer(central.sum(), SMALLEST_SUM, cls.device)
        loss_centerness = F.binary_cross_entropy_with_logits(
            centerness_logits[image, anchor, 0], central, reduction="sum"
        )
        return {
            "loss_cls": focal_loss(cls, labels, config.focal_alpha, config.focal_gamma) / num_positives,
            "loss_box": config.box_loss_weight * loss_box,
            "loss_centerness": loss_centerness / num_positives,
        }

    def class_logits(self, raw: Raw) -> Tensor:
        """(N, S, K) float32, what the class loss is taken on."""
        return flatten_levels(raw["cls"])

    def class_probabilities(self, raw: Raw) -> Tensor:
        """(N, S, K) float32."""
        return self.class_logits(raw).sigmoid()

    def score(self, probability: Tensor, centerness: Tensor) -> Tensor:
        """(N, S, K) class probabilities times the (N, S, 1) centerness of their positions, without a square root."""
        return probability * centerness

    @property
    def clip_before_nms(self) -> bool:
        return self.config.clip_before_nms

    def candidates(self, raw: Raw, limits: Limits | None = None) -> Candidates:
        """Candidates of every image; `score` says what a score is."""
        deltas, centerness_logits = (flatten_levels(raw[name]) for name in ("box", "centerness"))
        config, grids = self.config, self.anchor_grids(raw)
        probability = self.class_probabilities(raw)  # (N, S, K)
        score = self.score(probability, centerness_logits.sigmoid())
        passes = probability > config.score_threshold
        ranks = (score if config.rank_by == "product" else probability).masked_fill(~passes, -1.0)
        anchors = all_boxes(grids, deltas.device)
        return strongest_candidates(
            score,
            ranks,
            lambda image, anchor: decode_boxes(deltas[image, anchor], anchors[anchor], config.box_code_weights),
            level_sizes=[grid.number for grid in grids],
            candidates_per_level=self.candidates_per_level(limits),
        )

    def anchor_grids(self, raw: Raw) -> list[AnchorGrid]:
        """The anchors of each level, from the sizes of its prediction maps."""
        config = self.config
        return anchor_grids(
            raw["box"], self.strides_px, scale=config.anchor_scale, center_offset=config.anchor_center_offset
        )
