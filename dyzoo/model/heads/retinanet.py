"""The RetinaNet head (Lin et al., ICCV 2017): two towers and nine anchors at every position."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dyzoo.config import RetinaNetConfig
from dyzoo.distributed import joint_normalizer, process_count
from dyzoo.model.boxes import decode_boxes, encode_boxes
from dyzoo.model.heads.anchors import AnchorGrid, all_boxes, anchor_grids
from dyzoo.model.heads.base import ImageSizes, Limits, Raw, Targets, conv_tower, prediction_conv, prior_bias
from dyzoo.model.heads.dense import Candidates, DenseHead, flatten_levels, gather_positives, strongest_candidates
from dyzoo.model.heads.losses import IGNORED, focal_loss
from dyzoo.model.heads.matching import assign_by_iou

NORMALIZER_START = 100.0  # positive anchors of a batch; any number that is not too small
NORMALIZER_MOMENTUM = 0.9


class RetinaNetHead(DenseHead):
    """Class and box of A anchors per position of every level.

    Layers, losses and decoding follow detectron2's `RetinaNet` as microsoft/DynamicHead's
    `dyhead_r50_retina_fpn_1x` runs it: the towers stay behind DyHead. Both losses and decoding work in float32
    whatever the dtype of the features.

    Args:
        config: layers, anchors, matching, losses and decoding.
        channels: C of the features.
        num_classes: K.
        strides_px: stride of each level, finest first.

    Attributes:
        loss_normalizer: running mean of the positive anchors of a batch, scalar, which training divides its losses by
            and updates. Where several processes train together it counts their joined batch and each takes its share,
            while detectron2's processes have one each. It is a buffer, where detectron2 has an attribute that is lost
            on saving: a training that is resumed goes on as if it had not been interrupted.
    """

    loss_normalizer: Tensor

    clip_before_nms = False

    def __init__(self, config: RetinaNetConfig, channels: int, num_classes: int, strides_px: tuple[int, ...]) -> None:
        super().__init__(num_classes, strides_px)
        self.config: RetinaNetConfig = config
        self.anchors_per_position = config.octave_scales * len(config.aspect_ratios)
        self.cls_tower = conv_tower(channels, config.num_convs)
        self.box_tower = conv_tower(channels, config.num_convs)
        self.cls = prediction_conv(
            channels, self.anchors_per_position * num_classes, 3, bias=prior_bias(config.prior_probability)
        )
        self.box = prediction_conv(channels, self.anchors_per_position * 4, 3)
        self.register_buffer("loss_normalizer", torch.tensor(NORMALIZER_START))

    def forward(self, features: Sequence[Tensor]) -> Raw:
        """L maps (N, C, H, W), finest first -> lists over the levels of the raw predictions.

        Returns:
            "cls" (N, A * K, H, W) logits, "box" (N, A * 4, H, W) deltas: an anchor's channels are together.
        """
        self.check_levels(features)
        return {
            "cls": [self.cls(self.cls_tower(level)) for level in features],
            "box": [self.box(self.box_tower(level)) for level in features],
        }

    def losses(self, raw: Raw, targets: Targets, image_sizes: ImageSizes = ()) -> dict[str, Tensor]:
        """Scalar losses of a batch, divided by the running mean of positive anchors that it takes part in.

        In training mode `loss_normalizer` is updated, in evaluation mode only the quotient is formed.

        Returns:
            "loss_cls" and "loss_box".
        """
        cls, deltas = self._flatten(raw)
        config = self.config
        all_anchors = all_boxes(self.anchor_grids(raw), cls.device)
        assigned = [
            assign_by_iou(
                target["boxes"].float(),
                all_anchors,
                foreground_iou=config.foreground_iou,
                background_iou=config.background_iou,
                rescue=True,
            )
            for target in targets
        ]
        image, anchor, boxes, labels = gather_positives(torch.stack(assigned), targets)

        wanted = encode_boxes(boxes, all_anchors[anchor], config.box_code_weights)
        loss_box = F.smooth_l1_loss(deltas[image, anchor], wanted, reduction="sum", beta=config.smooth_l1_beta)
        takes_part = labels != IGNORED
        loss_cls = focal_loss(cls[takes_part], labels[takes_part], config.focal_alpha, config.focal_gamma)
        normalizer = self._normalizer(len(anchor))
        return {"loss_cls": loss_cls / normalizer, "loss_box": loss_box / normalizer}

    def candidates(self, raw: Raw, limits: Limits | None = None) -> Candidates:
        """Candidates of every image; a score is the class probability.

        Of the pairs of anchor and class above the threshold, the highest `candidates_per_level` of each level take
        part, as in detectron2's present code; its first releases took no more from a level than it has anchors.
        """
        cls, deltas = self._flatten(raw)
        config, grids = self.config, self.anchor_grids(raw)
        anchors = all_boxes(grids, cls.device)
        probability = cls.sigmoid()  # (N, S, K)
        return strongest_candidates(
            probability,
            torch.where(probability > config.score_threshold, probability, -1.0),
            lambda image, anchor: decode_boxes(deltas[image, anchor], anchors[anchor], config.box_code_weights),
            level_sizes=[grid.number for grid in grids],
            candidates_per_level=self.candidates_per_level(limits),
        )

    def anchor_grids(self, raw: Raw) -> list[AnchorGrid]:
        """The anchors of each level, from the sizes of its prediction maps."""
        config = self.config
        return anchor_grids(
            raw["box"],
            self.strides_px,
            scale=config.anchor_scale,
            center_offset=config.anchor_center_offset,
            octave_scales=config.octave_scales,
            aspect_ratios=config.aspect_ratios,
        )

    def _flatten(self, raw: Raw) -> tuple[Tensor, Tensor]:
        """Class logits (N, S, K) and box deltas (N, S, 4), float32."""
        return tuple(flatten_levels(raw[name], self.anchors_per_position) for name in ("cls", "box"))  # type: ignore[return-value]

    @torch.no_grad()
    def _normalizer(self, num_positives: int) -> Tensor:
        """A process's share of the running mean with this batch in it; float32 also for a module in half precision."""
        running, processes = self.loss_normalizer.float(), process_count()
        positives = joint_normalizer(num_positives, 1, running.device) * processes
        normalizer = NORMALIZER_MOMENTUM * running + (1 - NORMALIZER_MOMENTUM) * positives
        if self.training:
            self.loss_normalizer.copy_(normalizer)
        return normalizer / processes
