"""`Detector`: preprocess -> backbone -> FPN -> DyHead -> head, in one module."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from dyzoo.backbones import Backbone
from dyzoo.config import DetectorConfig
from dyzoo.detections import Detections
from dyzoo.dyhead import build_dyhead
from dyzoo.fpn import FPN
from dyzoo.heads import build_head
from dyzoo.heads.base import Detected, Raw
from dyzoo.heads.dense import suppress
from dyzoo.images import ImageSource, to_rgb
from dyzoo.preprocess import batch_images, map_to_image, resize_image, resized_size
from dyzoo.pretrained import PretrainedModel
from dyzoo.targets import Target, check_targets

Flip = Literal["horizontal", "vertical"]

_FLIPPED_DIMENSION: dict[Flip, int] = {"horizontal": -1, "vertical": -2}  # of a picture (3, H, W)


class Detector(PretrainedModel):
    """A DyHead object detector.

    Called like torchvision's detectors: `model(images, targets)` gives a dict of losses in training mode,
    `model(images)` a list of `{"boxes", "scores", "labels"}` in evaluation mode. `predict` is the way from files
    and pictures of any kind to `Detections`.

    Args:
        config: everything but the weights.
        pretrained_backbone: start from timm's published backbone weights, or from a local file of them.

    Raises:
        ValueError: the configuration names no labels.
        UnknownModelError: the backbone does not exist or does not fit.
    """

    def __init__(self, config: DetectorConfig, pretrained_backbone: bool | Path = False) -> None:
        super().__init__(config)
        if not config.labels:
            raise ValueError("the configuration names no labels, expected at least one class name")
        self.backbone = Backbone(config.backbone, config.fpn.backbone_strides_px, pretrained_backbone)
        self.fpn = FPN(config.fpn, self.backbone.channels)
        self.dyhead = build_dyhead(config.dyhead, config.fpn.channels)
        channels = config.dyhead.channels if config.dyhead.num_blocks else config.fpn.channels
        self.head = build_head(config.head, channels, len(config.labels), config.fpn.strides_px)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target] | None = None) -> Any:
        """Losses in training mode, detections in evaluation mode; images are not resized.

        Args:
            images: (3, H, W) each, RGB, uint8 or floating point in 0..1; sizes may differ.
            targets: ground truth of every image, needed in training mode and nowhere else. Boxes may stick out of
                their image, but have to reach into it.

        Returns:
            training: `{"loss_cls", "loss_box", ...}`, scalars, weighted and normalised; their sum is to be minimised.
            evaluation: per image `{"boxes": (M, 4) xyxy px, "scores": (M,), "labels": (M,)}`, best first.

        Raises:
            ValueError: targets are absent in training mode or given in evaluation mode, are not one for each image, or
                hold something that cannot be learnt: the first such box or label is named.
        """
        if not self.training and targets is not None:
            raise ValueError(
                "targets are given in evaluation mode, where nothing but detections comes out: call train() first to "
                "get losses (create_model and from_pretrained give models in evaluation mode), or leave them out"
            )
        batch, image_sizes = batch_images(images, self.config.preprocess, self.device)
        if not self.training:
            raw = self.forward_head(self.forward_features(batch))
            return self.head.decode(raw, image_sizes)
        if targets is None:
            raise ValueError("targets is None, expected one target per image in training mode (or call eval() first)")
        if len(targets) != len(images):
            raise ValueError(f"got {len(targets)} targets for {len(images)} images, expected one per image")
        check_targets(targets, image_sizes, len(self.labels))
        raw = self.forward_head(self.forward_features(batch))
        on_device = [{key: target[key].to(self.device) for key in ("boxes", "labels")} for target in targets]  # type: ignore[literal-required]
        return self.head.losses(raw, on_device, image_sizes)

    def forward_features(self, batch: Tensor) -> list[Tensor]:
        """Normalised, padded images (N, 3, H, W) -> the DyHead outputs, (N, C, h, w) each, finest first."""
        return self.dyhead(self.fpn(self.backbone(batch)))

    def forward_head(self, features: list[Tensor]) -> Raw:
        """DyHead outputs -> raw predictions, a list over the levels for each kind; see the head for their shapes.

        Dense heads give `cls` and `box`, ATSS and FCOS `centerness` too; Faster R-CNN its proposal network's
        `objectness` and `box`.
        """
        return self.head(features)

    @torch.inference_mode()
    def predict(
        self,
        images: ImageSource | Sequence[ImageSource],
        threshold: float = 0.3,
        size: int | Literal["native"] | None = None,
        batch_size: int = 1,
        flips: Sequence[Flip] = (),
    ) -> list[Detections]:
        """Detect objects in pictures of any kind and size.

        Args:
            images: paths, PIL images, (H, W[, C]) arrays or (3, H, W) tensors; one or several.
            threshold: detections of a lower score are left out.
            size: shortest edge in pixels to resize to (the longest edge keeps the configured proportion), "native" to
                feed images unresized, None for the size the model was trained at.
            batch_size: images per forward pass. Images of a batch are padded to the largest one.
            flips: further views to detect in, "horizontal" or "vertical" or both, each for the time of one more
                forward pass. What is found in all views is merged as mmdetection's `DetTTAModel` does it: NMS per
                class at the head's own IoU threshold, then the head's limit of detections.

        Returns:
            One `Detections` per image, in order, boxes in pixels of the image given.

        Raises:
            ImageError: an image cannot be read.
            ValueError: there is no such size or flip.
        """
        views = self._views(flips)
        sources = [images] if isinstance(images, ImageSource) else images
        was_training = self.training
        self.eval()
        try:
            remaining, results = iter(sources), []
            while chunk := list(islice(remaining, max(batch_size, 1))):
                results += self._predict_batch(chunk, threshold, size, views)
            return results
        finally:
            self.train(was_training)

    def _predict_batch(
        self,
        sources: Sequence[ImageSource],
        threshold: float,
        size: int | Literal["native"] | None,
        views: Sequence[Flip | None],
    ) -> list[Detections]:
        pictures = [TF.pil_to_tensor(to_rgb(source)) for source in sources]
        original_sizes = [(picture.shape[1], picture.shape[2]) for picture in pictures]
        resized = [resize_image(p, self._network_size(s, size)) for p, s in zip(pictures, original_sizes, strict=True)]
        merged = self._detect_in_views(resized, views)
        results = []
        for source, picture, original_size, found in zip(sources, resized, original_sizes, merged, strict=True):
            kept = found["scores"] >= threshold
            boxes = map_to_image(found["boxes"][kept], (picture.shape[1], picture.shape[2]), original_size)
            results.append(
                Detections(
                    boxes_xyxy=boxes.float().cpu(),
                    scores=found["scores"][kept].float().cpu(),
                    labels=found["labels"][kept].cpu(),
                    names=self.labels,
                    image_size=original_size,
                    path=Path(source) if isinstance(source, str | Path) else None,
                )
            )
        return results

    @staticmethod
    def _views(flips: Sequence[Flip]) -> list[Flip | None]:
        """The picture as it is, None, then each flip once."""
        if isinstance(flips, str) or any(flip not in _FLIPPED_DIMENSION for flip in flips):
            raise ValueError(f"flips is {flips!r}, expected a list with 'horizontal', 'vertical' or both")
        return [None, *dict.fromkeys(flips)]

    def _detect_in_views(self, pictures: Sequence[Tensor], views: Sequence[Flip | None]) -> list[Detected]:
        """What is found in the resized pictures (3, H, W) and their flips, in pixels of the pictures as they are."""
        of_views = [self._detect_in_view(pictures, view) for view in views]
        if len(of_views) == 1:
            return of_views[0]
        head, merged = self.config.head, []
        for picture, *of_picture in zip(pictures, *of_views, strict=True):
            boxes, scores, labels = (torch.cat([v[kind] for v in of_picture]) for kind in ("boxes", "scores", "labels"))
            merged.append(
                suppress(
                    boxes,
                    scores,
                    labels,
                    (picture.shape[1], picture.shape[2]),
                    clip_before_nms=True,  # changes nothing: the head has clipped them
                    nms_threshold=head.nms_threshold,
                    max_detections=head.max_detections,
                )
            )
        return merged

    def _detect_in_view(self, pictures: Sequence[Tensor], flip: Flip | None) -> list[Detected]:
        if flip is None:
            return self(pictures)
        # Flipped before they are padded: the padding is at the right and the bottom of every view.
        found = self([picture.flip(_FLIPPED_DIMENSION[flip]) for picture in pictures])
        return [_flip_back(f, picture, flip) for f, picture in zip(found, pictures, strict=True)]

    def _network_size(self, image_size: tuple[int, int], size: int | Literal["native"] | None) -> tuple[int, int]:
        if size == "native":
            return image_size
        trained = self.config.preprocess
        shortest = trained.shortest_edge if size is None else size
        if not isinstance(shortest, int) or shortest < 1:
            raise ValueError(f"size is {size!r}, expected a number of pixels, 'native' or None")
        return resized_size(*image_size, shortest, trained.at(shortest).longest_edge)


def _flip_back(found: Detected, picture: Tensor, flip: Flip) -> Detected:
    """Boxes of a flipped picture (3, H, W) in pixels of the picture; edges change places, as x1 is the left one."""
    length_px = picture.shape[_FLIPPED_DIMENSION[flip]]
    x1, y1, x2, y2 = found["boxes"].unbind(1)
    if flip == "horizontal":
        x1, x2 = length_px - x2, length_px - x1
    else:
        y1, y2 = length_px - y2, length_px - y1
    return {**found, "boxes": torch.stack([x1, y1, x2, y2], dim=1)}
