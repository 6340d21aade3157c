"""A detector from tensors to tensors of fixed sizes, which `torch.export` and `torch.compile` take as a whole."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dyzoo.model.detector import Detector
from dyzoo.model.heads.base import Raw
from dyzoo.model.heads.dense import DenseHead
from dyzoo.model.heads.fixed_size import FixedDetections, suppress_to_fixed_size


class FixedSizeDetector(nn.Module):
    """Detections as `model(images)` has them, in `max_detections` places for each image, filled up at the end.

    The graph holds one operator of the project's own, `dyzoo::suppress`, in the place of NMS, beside those of the
    attention: whoever loads an exported program imports `dyzoo` first.

        exported = torch.export.export(FixedSizeDetector(model), (batch, image_sizes))
        compiled = torch.compile(FixedSizeDetector(model), fullgraph=True)

    The batch and the sizes, here as `torch.tensor(sizes)`, come from
    `dyzoo.model.preprocess.batch_images(images, model.config.preprocess, model.device)`.

    Args:
        model: the detector, in evaluation mode from here on; its parameters are shared, not copied.

    Raises:
        ValueError: a two-stage head, whose number of proposals depends on the picture.
    """

    def __init__(self, model: Detector) -> None:
        super().__init__()
        if not isinstance(model.head, DenseHead):
            raise ValueError(
                f"{type(model.head).__name__} has no outputs of a fixed size, expected a dense head "
                "(ATSS, RetinaNet or FCOS): the number of its proposals depends on the picture"
            )
        self.model = model.eval()
        self.head = model.head

    @torch.no_grad()
    def forward(self, batch: Tensor, image_sizes: Tensor) -> FixedDetections:
        """Detect.

        Args:
            batch: normalised images (N, 3, H, W), padded at the right and the bottom; sides are multiples of
                `config.preprocess.size_divisor`.
            image_sizes: (N, 2) int64, (H, W) of each image without the padding, in pixels.
        """
        return self.decode(self.predict(batch), image_sizes)

    def predict(self, batch: Tensor) -> Raw:
        """The head's predictions, see `Detector.forward_head`."""
        return self.head(self.model.forward_features(batch))

    def decode(self, raw: Raw, image_sizes: Tensor) -> FixedDetections:
        """Detections from the head's predictions, the rest as for `forward`."""
        config = self.head.config
        candidates = self.head.candidates(raw)
        return FixedDetections(
            *suppress_to_fixed_size(
                *candidates,
                image_sizes,
                clip_before_nms=self.head.clip_before_nms,
                nms_threshold=config.nms_threshold,
                max_detections=config.max_detections,
                inclusive_corners=self.head.inclusive_corners,
            )
        )
