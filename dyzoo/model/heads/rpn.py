"""The region proposal network (Ren et al., NeurIPS 2015): where an object may be, of whatever class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyzoo.config import FasterRCNNConfig
from dyzoo.model.boxes import decode_boxes, encode_boxes
from dyzoo.model.heads.anchors import AnchorGrid, all_boxes, anchor_grids
from dyzoo.model.heads.base import ImageSizes, Targets, prediction_conv
from dyzoo.model.heads.dense import Candidates, flatten_levels, suppress_batch
from dyzoo.model.heads.matching import assign_by_iou, sample_balanced

DELTA_WEIGHTS = (1.0, 1.0, 1.0, 1.0)


class Proposals(NamedTuple):
    """Proposals of one image, the likeliest first."""

    boxes_xyxy: Tensor  # (R, 4) float32 pixels, inside the image and not empty
    logits: Tensor  # (R,) float32 objectness


class RegionProposals(nn.Module):
    """Objectness and box of A anchors per position of every level, after detectron2's `RPN`.

    Beside `torchvision.models.detection.rpn`: anchors that are not rounded, no smallest side, L1 on the deltas, and
    losses divided by the number of anchors that *may* be sampled instead of those that are.

    Args:
        config: anchors, matching, sampling and suppression.
        channels: C of the features.
        strides_px: stride of each level, finest first.
    """

    def __init__(self, config: FasterRCNNConfig, channels: int, strides_px: Sequence[int]) -> None:
        super().__init__()
        self.config = config
        self.strides_px = tuple(strides_px)
        self.anchors_per_position = len(config.aspect_ratios)
        self.conv = prediction_conv(channels, channels, 3)
        self.objectness = prediction_conv(channels, self.anchors_per_position, 1)
        self.box = prediction_conv(channels, self.anchors_per_position * 4, 1)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """L maps (N, C, H, W) -> objectness logits (N, A, H, W) and deltas (N, A * 4, H, W) of each."""
        hidden = [self.conv(level).relu() for level in features]
        return [self.objectness(level) for level in hidden], [self.box(level) for level in hidden]

    def losses(self, objectness: Sequence[Tensor], box: Sequence[Tensor], targets: Targets) -> tuple[Tensor, Tensor]:
        """Binary cross-entropy of the anchors sampled and L1 of the positive ones, scalars.

        Args:
            objectness, box: what `forward` returned for N images.
            targets: for each image "boxes" (M, 4) xyxy pixels; M may be 0.
        """
        config = self.config
        logits, deltas = self._flatten(objectness, box)
        anchors = all_boxes(self.anchor_grids(objectness), logits.device)
        objectness_losses, box_losses = [], []
        for image, target in enumerate(targets):
            boxes = target["boxes"].float()
            assigned = assign_by_iou(
                boxes,
                anchors,
                foreground_iou=config.rpn_foreground_iou,
                background_iou=config.rpn_background_iou,
                rescue=True,
            )
            positive, background = sample_balanced(assigned, config.rpn_batch_size, config.rpn_positive_fraction)
            sampled = logits[image, torch.cat([positive, background])]
            is_object = (torch.arange(len(sampled), device=sampled.device) < len(positive)).float()
            wanted = encode_boxes(boxes[assigned[positive]], anchors[positive], DELTA_WEIGHTS)
            objectness_losses.append(F.binary_cross_entropy_with_logits(sampled, is_object, reduction="sum"))
            box_losses.append(F.l1_loss(deltas[image, positive], wanted, reduction="sum"))
        normalizer = config.rpn_batch_size * len(targets)
        return torch.stack(objectness_losses).sum() / normalizer, torch.stack(box_losses).sum() / normalizer

    @torch.no_grad()
    def propose(
        self,
        objectness: Sequence[Tensor],
        box: Sequence[Tensor],
        image_sizes: ImageSizes,
        candidates_per_level: int,
        num_proposals: int | None = None,
    ) -> list[Proposals]:
        """Boxes that may hold an object.

        Every level's likeliest anchors are decoded, clipped to the image, and suppressed within their level. Boxes
        that are empty or not finite are dropped.

        Args:
            objectness, box: what `forward` returned for N images.
            image_sizes: (H, W) of each image without the padding of the batch, in pixels.
            candidates_per_level: anchors of each level that take part.
            num_proposals: most boxes of an image; None for the configuration's.
        """
        return [
            Proposals(found["boxes"], found["scores"])
            for found in suppress_batch(
                self.candidates(objectness, box, candidates_per_level),
                image_sizes,
                inclusive_corners=False,
                clip_before_nms=True,
                nms_threshold=self.config.rpn_nms_threshold,
                max_detections=num_proposals or self.config.num_proposals,
            )
        ]

    @torch.no_grad()
    def candidates(self, objectness: Sequence[Tensor], box: Sequence[Tensor], candidates_per_level: int) -> Candidates:
        """The likeliest anchors of every level: boxes, logits as scores, and levels as labels.

        Args:
            objectness, box: what `forward` returned for N images.
            candidates_per_level: anchors of each level that take part.
        """
        logits, deltas = self._flatten(objectness, box)
        grids = self.anchor_grids(objectness)
        anchors = all_boxes(grids, logits.device)
        chosen, levels, start = [], [], 0
        for level, grid in enumerate(grids):
            count = torch.sym_min(candidates_per_level, grid.number)
            best = logits[:, start : start + grid.number].topk(count, dim=1).indices
            chosen.append(start + best)
            levels.append(torch.full_like(best, level))
            start += grid.number
        anchor, level_of = torch.cat(chosen, dim=1), torch.cat(levels, dim=1)
        image = torch.arange(logits.shape[0], device=logits.device)[:, None]
        scores = logits.gather(1, anchor)
        boxes = decode_boxes(deltas[image, anchor], anchors[anchor], DELTA_WEIGHTS)
        return Candidates(boxes, scores, level_of, scores.isfinite())

    def anchor_grids(self, objectness: Sequence[Tensor]) -> list[AnchorGrid]:
        """The anchors of each level, from the sizes of its prediction maps."""
        config = self.config
        return anchor_grids(
            objectness,
            self.strides_px,
            scale=config.anchor_scale,
            center_offset=config.anchor_center_offset,
            aspect_ratios=config.aspect_ratios,
        )

    def _flatten(self, objectness: Sequence[Tensor], box: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Objectness logits (N, S) and deltas (N, S, 4), float32."""
        logits = flatten_levels(objectness, self.anchors_per_position)[..., 0]
        return logits, flatten_levels(box, self.anchors_per_position)
