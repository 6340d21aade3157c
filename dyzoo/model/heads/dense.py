"""Common parts of dense heads: layout of predictions, targets, and the way from scores to detections."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from dyzoo.config import ATSSConfig, FCOSConfig, RetinaNetConfig
from dyzoo.model.boxes import add_to_ends
from dyzoo.model.heads.base import Detected, Head, ImageSizes, Limits, Raw, Targets


def flatten_levels(maps: Sequence[Tensor], anchors_per_position: int = 1) -> Tensor:
    """Pack the maps (N, A * C, H, W) of L levels into (N, S, C) float32, S = sum of H * W * A.

    Finest first, positions in row-major order, the A anchors of a position one after the other.
    """
    packed = torch.cat([level.permute(0, 2, 3, 1).flatten(1, 2) for level in maps], dim=1).float()
    return packed.unflatten(2, (anchors_per_position, -1)).flatten(1, 2)


class Positives(NamedTuple):
    """The P anchors of a batch that learn an object."""

    image: Tensor  # (P,) int64
    anchor: Tensor  # (P,) int64, index into the S anchors
    boxes: Tensor  # (P, 4) float32 xyxy pixels, of the object
    labels: Tensor  # (N, S) int64: the class of every anchor's object, else what `assigned` says of it


def gather_positives(assigned: Tensor, targets: Targets) -> Positives:
    """Match anchors with the objects that they learn.

    Args:
        assigned: (N, S) int64, the index of the object of each anchor within its image; negative for none.
        targets: ground truth of N images, on the same device.
    """
    image, anchor = (assigned >= 0).nonzero(as_tuple=True)
    first_object = torch.tensor([0, *accumulate(len(target["boxes"]) for target in targets)], device=assigned.device)
    matched = first_object[image] + assigned[image, anchor]
    labels = assigned.clone()
    labels[image, anchor] = torch.cat([target["labels"].long() for target in targets])[matched]
    boxes = torch.cat([target["boxes"].float() for target in targets])[matched]
    return Positives(image, anchor, boxes, labels)


class Candidates(NamedTuple):
    """The pairs of anchor and class that may become detections, T of every image, in no particular order."""

    boxes_xyxy: Tensor  # (N, T, 4) float32 pixels, not clipped
    scores: Tensor  # (N, T) float32
    labels: Tensor  # (N, T) int64
    present: Tensor  # (N, T) bool; where not, an image has fewer


class DenseHead(Head):
    """A head that scores every anchor: how many candidates it has depends on the size of the images alone."""

    config: ATSSConfig | RetinaNetConfig | FCOSConfig

    @property
    @abstractmethod
    def clip_before_nms(self) -> bool:
        """Whether overlaps are measured inside the image, see `suppress`."""

    @abstractmethod
    def candidates(self, raw: Raw, limits: Limits | None = None) -> Candidates:
        """Pairs of anchor and class that take part in suppression, of the N images that `forward` has seen."""

    def detect(self, raw: Raw, image_sizes: ImageSizes, limits: Limits | None = None) -> list[Detected]:
        """Detections of every image; `candidates` says what a score is."""
        if not image_sizes:
            return []
        limits = limits or Limits.of(self.config)
        return suppress_batch(
            self.candidates(raw, limits),
            image_sizes,
            inclusive_corners=self.inclusive_corners,
            clip_before_nms=self.clip_before_nms,
            nms_threshold=limits.nms_threshold,
            max_detections=limits.max_detections,
        )

    def candidates_per_level(self, limits: Limits | None) -> int:
        """The highest-ranking pairs of a level that take part."""
        count = self.config.candidates_per_level
        return count if limits is None else limits.candidates(self.config, count)


def strongest_candidates(
    scores: Tensor,
    ranks: Tensor,
    boxes_of: Callable[[Tensor, Tensor], Tensor],
    *,
    level_sizes: Sequence[int],
    candidates_per_level: int,
) -> Candidates:
    """The highest-ranking pairs of anchor and class.

    Args:
        scores: (N, S, K).
        ranks: (N, S, K) that candidates are ranked by; negative where a pair of anchor and class is none.
        boxes_of: the boxes (N, T, 4) of anchors (N, T); called with the images (N, 1) and the anchors' indices.
        level_sizes: anchors of each level, S in all.
        candidates_per_level: the highest-ranking pairs of a level that take part.
    """
    chosen = strongest_per_level(ranks, level_sizes, candidates_per_level)  # (N, T)
    anchor = chosen // scores.shape[2]
    image = torch.arange(scores.shape[0], device=scores.device)[:, None]
    return Candidates(
        boxes_of(image, anchor),
        scores.flatten(1).gather(1, chosen),
        chosen % scores.shape[2],
        ranks.flatten(1).gather(1, chosen) >= 0,
    )


def strongest_per_level(ranks: Tensor, level_sizes: Sequence[int], count: int) -> Tensor:
    """The `count` highest-ranking (anchor, class) pairs of every level.

    Args:
        ranks: (N, S, K), S the sum of `level_sizes`.
        level_sizes: anchors of each level.
        count: per level and image; a smaller level gives all its pairs.

    Returns:
        (N, T) int64 indices into the flat S * K pairs, in no particular order.
    """
    chosen, start = [], 0
    for level in ranks.split(list(level_sizes), dim=1):
        pairs = level.flatten(1)
        chosen.append(start + pairs.topk(torch.sym_min(count, pairs.shape[1]), dim=1, sorted=False).indices)
        start += pairs.shape[1]
    return torch.cat(chosen, dim=1)


def suppress_batch(
    candidates: Candidates,
    image_sizes: ImageSizes,
    *,
    inclusive_corners: bool,
    clip_before_nms: bool,
    nms_threshold: float,
    max_detections: int,
) -> list[Detected]:
    """The candidates of every image -> its detections; see `suppress`."""
    detections = []
    for boxes, scores, labels, present, image_size in zip(*candidates, image_sizes, strict=True):
        detections.append(
            suppress(
                boxes[present],
                scores[present],
                labels[present],
                image_size,
                inclusive_corners=inclusive_corners,
                clip_before_nms=clip_before_nms,
                nms_threshold=nms_threshold,
                max_detections=max_detections,
            )
        )
    return detections


def suppress(
    boxes_xyxy: Tensor,
    scores: Tensor,
    labels: Tensor,
    image_size: tuple[int, int],
    *,
    clip_before_nms: bool,
    nms_threshold: float,
    max_detections: int,
    inclusive_corners: bool = False,
) -> Detected:
    """The candidates of one image -> its detections: per-class NMS, the best `max_detections`, clipped to the image.

    Boxes that are empty once clipped (those in the padding, for one) are dropped.

    Args:
        boxes_xyxy, scores, labels: (M, 4), (M,), (M,).
        image_size: (H, W) in pixels.
        clip_before_nms: overlaps are measured inside the image (mmdetection, torchvision) or on the full boxes
            (detectron2's dense heads).
        nms_threshold: IoU above which, of two boxes of a class, the one of the lower score goes.
        max_detections: most detections of an image.
        inclusive_corners: see `Head`.
    """
    if inclusive_corners:
        height, width = image_size
        image_size = (height - 1, width - 1)
        boxes_xyxy = add_to_ends(boxes_xyxy, -1.0)
    if clip_before_nms:
        boxes_xyxy, scores, labels = _clip(boxes_xyxy, scores, labels, image_size)
    kept = batched_nms(boxes_xyxy, scores, labels, nms_threshold)[:max_detections]
    boxes_xyxy, scores, labels = _clip(boxes_xyxy[kept], scores[kept], labels[kept], image_size)
    if inclusive_corners:
        boxes_xyxy = add_to_ends(boxes_xyxy, 1.0)
    return {"boxes": boxes_xyxy, "scores": scores, "labels": labels}


def _clip(
    boxes_xyxy: Tensor, scores: Tensor, labels: Tensor, image_size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    clipped = clip_boxes_to_image(boxes_xyxy, image_size)
    present = (clipped[:, 2:] > clipped[:, :2]).all(dim=1)
    return clipped[present], scores[present], labels[present]
