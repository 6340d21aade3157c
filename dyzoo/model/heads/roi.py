"""The second stage of Faster R-CNN: class and box of every proposal, from the features pooled inside it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from dyzoo.config import FasterRCNNConfig
from dyzoo.distributed import joint_normalizer
from dyzoo.model.boxes import box_areas, decode_boxes, encode_boxes
from dyzoo.model.heads.base import Detected, ImageSizes, Limits, Targets
from dyzoo.model.heads.dense import suppress
from dyzoo.model.heads.matching import assign_by_iou, sample_balanced

# equation 1 of Lin et al., *FPN*, CVPR 2017: a box of 224 px belongs to the level of stride 16
CANONICAL_SIDE_PX = 224
CANONICAL_LEVEL = 4
COARSEST_STRIDE_PX = 32  # the extra level above the backbone's is the proposals' alone


class RegionClassifier(nn.Module):
    """Two fully connected layers over RoIAlign, then K + 1 classes and K boxes.

    After detectron2's `StandardROIHeads` with `FastRCNNConvFCHead` and `FastRCNNOutputLayers`. Beside
    `torchvision.models.detection.roi_heads`: RoIAlign between pixel centres and with as many samples as a bin is
    large, background as the last class, a box for each of the K classes and none for background, L1 on the deltas,
    and no smallest side.

    Args:
        config: layers, matching, sampling and suppression.
        channels: C of the features.
        num_classes: K.
        strides_px: stride of each level, finest first.

    Raises:
        ValueError: no level has a stride of 32 or less, so there is nothing to pool from.
    """

    def __init__(self, config: FasterRCNNConfig, channels: int, num_classes: int, strides_px: Sequence[int]) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.strides_px = tuple(stride for stride in strides_px if stride <= COARSEST_STRIDE_PX)
        if not self.strides_px:
            raise ValueError(f"levels have strides {tuple(strides_px)}, expected one of {COARSEST_STRIDE_PX} or less")
        self.fc1 = nn.Linear(channels * config.roi_size**2, config.hidden_features)
        self.fc2 = nn.Linear(config.hidden_features, config.hidden_features)
        self.cls = nn.Linear(config.hidden_features, num_classes + 1)
        self.box = nn.Linear(config.hidden_features, num_classes * 4)
        for layer in (self.fc1, self.fc2):
            nn.init.kaiming_uniform_(layer.weight, a=1)
        nn.init.normal_(self.cls.weight, std=0.01)
        nn.init.normal_(self.box.weight, std=0.001)
        for layer in (self.fc1, self.fc2, self.cls, self.box):
            nn.init.zeros_(layer.bias)

    def forward(self, features: Sequence[Tensor], boxes_xyxy: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Predictions for the R boxes of all images.

        Args:
            features: maps (N, C, H, W) of the levels, finest first; those above stride 32 are not looked at.
            boxes_xyxy: (R_i, 4) float32 pixels of each image.

        Returns:
            Class logits (R, K + 1), background last, and deltas (R, K, 4), float32.
        """
        return self.predict(self.pool(features, boxes_xyxy))

    def predict(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (R, K + 1) and deltas (R, K, 4) of features (R, C, roi_size, roi_size) inside boxes."""
        pooled = pooled.to(self.fc1.bias.dtype)
        hidden = self.fc2(self.fc1(pooled.flatten(1)).relu()).relu()
        return self.cls(hidden).float(), self.box(hidden).float().unflatten(1, (self.num_classes, 4))

    def losses(
        self, features: Sequence[Tensor], proposals_xyxy: Sequence[Tensor], targets: Targets
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy and L1 of the boxes sampled from proposals and ground truth, scalars, by the number sampled.

        Processes that train together divide by what all of them sampled, so that a process with fewer proposals does
        not give each of its own more weight; detectron2 lets it.

        Args:
            features: maps (N, C, H, W) of the levels, finest first.
            proposals_xyxy: (R_i, 4) float32 pixels of each image.
            targets: for each image "boxes" (M, 4) xyxy pixels and "labels" (M,) int64 in [0, K); M may be 0.
        """
        config = self.config
        sampled, labels, wanted = [], [], []
        for proposals, target in zip(proposals_xyxy, targets, strict=True):
            boxes = target["boxes"].float()
            candidates = torch.cat([proposals, boxes])
            assigned = assign_by_iou(
                boxes,
                candidates,
                foreground_iou=config.roi_foreground_iou,
                background_iou=config.roi_foreground_iou,
                rescue=False,
            )
            positive, background = sample_balanced(assigned, config.roi_batch_size, config.roi_positive_fraction)
            objects = assigned[positive]
            sampled.append(candidates[torch.cat([positive, background])])
            labels += [target["labels"][objects].long(), torch.full_like(background, self.num_classes)]
            wanted.append(encode_boxes(boxes[objects], candidates[positive], config.box_code_weights))
        logits, deltas = self(features, sampled)
        label = torch.cat(labels)
        positive = (label < self.num_classes).nonzero()[:, 0]
        num_sampled = joint_normalizer(len(label), 1, logits.device)
        loss_cls = F.cross_entropy(logits, label, reduction="sum") / num_sampled
        loss_box = F.l1_loss(deltas[positive, label[positive]], torch.cat(wanted), reduction="sum") / num_sampled
        return loss_cls, loss_box

    def decode(
        self,
        features: Sequence[Tensor],
        proposals_xyxy: Sequence[Tensor],
        image_sizes: ImageSizes,
        limits: Limits | None = None,
    ) -> list[Detected]:
        """Detections of every image; a score is the probability of the class, boxes are clipped before suppression.

        Args:
            features: maps (N, C, H, W) of the levels, finest first.
            proposals_xyxy: (R_i, 4) float32 pixels of each image.
            image_sizes: (H, W) of each image without the padding of the batch, in pixels.
            limits: in the place of the configuration's.
        """
        config = self.config
        limits = limits or Limits.of(config)
        logits, deltas = self(features, proposals_xyxy)
        counts = [len(boxes) for boxes in proposals_xyxy]
        detections = []
        for boxes, score, delta, image_size in zip(
            proposals_xyxy, logits.softmax(dim=1).split(counts), deltas.split(counts), image_sizes, strict=True
        ):
            proposal, label = (score[:, :-1] > config.score_threshold).nonzero(as_tuple=True)
            detections.append(
                suppress(
                    decode_boxes(delta[proposal, label], boxes[proposal], config.box_code_weights),
                    score[proposal, label],
                    label,
                    image_size,
                    clip_before_nms=True,
                    nms_threshold=limits.nms_threshold,
                    max_detections=limits.max_detections,
                )
            )
        return detections

    def pool(self, features: Sequence[Tensor], boxes_xyxy: Sequence[Tensor]) -> Tensor:
        """Features inside the boxes: (R, C, roi_size, roi_size) float32, each from the level of its size."""
        return pool_levels(features, boxes_xyxy, self.strides_px, self.config.roi_size)


def pool_levels(
    features: Sequence[Tensor], boxes_xyxy: Sequence[Tensor], strides_px: Sequence[int], roi_size: int
) -> Tensor:
    """Features inside the boxes (R_i, 4) of each image: (R, C, roi_size, roi_size) float32, detectron2's `ROIPooler`.

    Args:
        features: maps (N, C, H, W) of the levels, finest first; those without a stride are not looked at.
        boxes_xyxy: float32 pixels of each image.
        strides_px: stride of each level that is pooled from.
        roi_size: positions of a region along each axis.
    """
    images = [torch.full_like(boxes[:, :1], index) for index, boxes in enumerate(boxes_xyxy)]
    rois = torch.cat([torch.cat(images), torch.cat(list(boxes_xyxy))], dim=1)  # (R, 5)
    levels = assign_levels(rois[:, 1:], strides_px)
    order, pooled = [], []
    for level, stride_px in enumerate(strides_px):
        order.append((levels == level).nonzero()[:, 0])
        pooled.append(
            roi_align(
                features[level].float(),
                rois[order[-1]],
                roi_size,
                spatial_scale=1 / stride_px,
                sampling_ratio=0,  # as many samples as a bin has positions in each direction, rounded up
                aligned=True,
            )
        )
    return torch.cat(pooled)[torch.cat(order).argsort()]


def assign_levels(boxes_xyxy: Tensor, strides_px: Sequence[int]) -> Tensor:
    """Index of the level that each of (R, 4) boxes is pooled from, by its size (detectron2's `ROIPooler`)."""
    sides = box_areas(boxes_xyxy).clamp(min=0).sqrt()  # of a box that is inside out too, which ground truth may be
    level = (CANONICAL_LEVEL + (sides / CANONICAL_SIDE_PX + 1e-8).log2()).floor()  # 1e-8: log2(0) would be no level
    finest, coarsest = (int(math.log2(stride)) for stride in (strides_px[0], strides_px[-1]))
    return level.clamp(finest, coarsest).long() - finest
