"""`Detector`: preprocess -> backbone -> FPN -> DyHead -> head, in one module."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dyzoo.config import DetectorConfig
from dyzoo.dyhead import DyHead
from dyzoo.model.backbones import Backbone
from dyzoo.model.fpn import FPN
from dyzoo.model.graphs import forget, raw_maps
from dyzoo.model.heads import build_head
from dyzoo.model.heads.base import Limits
from dyzoo.model.network import Network
from dyzoo.model.optimization import OptimizedDetector
from dyzoo.model.prediction import PredictingModel
from dyzoo.model.preprocess import batch_images
from dyzoo.model.targets import Target, check_targets


class Detector(Network, PredictingModel):
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
        self.dyhead = DyHead.from_config(config.dyhead, config.fpn.channels)
        self.head = build_head(config.head, self.dyhead.out_channels, len(config.labels), config.fpn.strides_px)

    @classmethod
    def sharing(cls, network: Network, config: DetectorConfig) -> Detector:
        """A detector of the same layers as a network that was built of `config`: the weights are there once."""
        detector = cls.__new__(cls)
        PredictingModel.__init__(detector, config)
        detector.share_layers(network)
        detector.training = network.training
        return detector

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters: float32, or what `half()` or `to(torch.bfloat16)` have made of them."""
        return next(self.parameters()).dtype

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None, *, limits: Limits | None = None
    ) -> Any:
        """Losses in training mode, detections in evaluation mode; images are not resized.

        Args:
            images: (3, H, W) each, RGB, uint8 or floating point in 0..1; sizes may differ.
            targets: ground truth of every image, needed in training mode and nowhere else. Boxes may stick out of
                their image, but have to reach into it.
            limits: NMS threshold and number of detections in the place of the head's own, in evaluation mode.

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
        batch, image_sizes = batch_images(images, self.config.preprocess, self.device, self.dtype)
        if not self.training:
            return self.head.decode(raw_maps(self, batch), image_sizes, limits)
        if targets is None:
            raise ValueError("targets is None, expected one target per image in training mode (or call eval() first)")
        if len(targets) != len(images):
            raise ValueError(f"got {len(targets)} targets for {len(images)} images, expected one per image")
        check_targets(targets, image_sizes, len(self.labels))
        forget(self)  # training takes the memory that graphs of an evaluation have
        raw = self.forward_head(self.forward_features(batch))
        on_device = [{key: target[key].to(self.device) for key in ("boxes", "labels")} for target in targets]  # type: ignore[literal-required]
        return self.head.losses(raw, on_device, image_sizes)

    def export(self, path: str | Path, **options: Any) -> Any:
        """Write the detector as a file of another runtime, after it has been compared with the detector; see
        docs/export.md.

        Args:
            path: the file, written aside and renamed: `.onnx`, `.xml` of OpenVINO, `.pt2` of torch.export
                or AOTInductor.
            options: fields of `dyzoo.export.ExportOptions` (`to`, `decode`, `preprocess`, `input_type`,
                `deform_conv`, `precision`, `calibration`, `size`), and `picture`, which the comparison is made on in
                place of the sample image.

        Returns:
            The `dyzoo.export.ExportReport`: the file and the largest differences.

        Raises:
            ExportError: what is needed is not installed, or what was exported answers otherwise.
        """
        exporting = import_module("dyzoo.export.exporting")  # which stands above
        picture = options.pop("picture", None)
        return exporting.export_detector(self, path, exporting.ExportOptions(**options), picture)

    def optimize(self) -> OptimizedDetector:
        """A detector for inference on a CPU that finds the same sooner; see docs/speed.md.

        It has weights of its own, and can do no more than detect: `predict`, `pipeline`, evaluations, servers and calls
        in evaluation mode take it as they take this one.

        Raises:
            SettingError: the weights are not float32, or not on the CPU; or what comes out is not a number, or not what
                the layers of this class compute.
        """
        return OptimizedDetector(self.config, self)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Change every weight, as `to`, `half` and the like do."""
        forget(self)  # a detector that moves leaves no memory behind
        return super()._apply(fn, recurse)
