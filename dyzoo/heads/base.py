"""What every head offers to the detector."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

Raw = dict[str, list[Tensor]]  # what a head's forward returns: a list over the levels for each kind of prediction
Detected = dict[str, Tensor]  # "boxes" (M, 4) float32 xyxy pixels, "scores" (M,) float32, "labels" (M,) int64
Targets = Sequence[Mapping[str, Tensor]]  # for each image "boxes" (M, 4) xyxy pixels and "labels" (M,) int64
ImageSizes = Sequence[tuple[int, int]]  # (H, W) of each image without the padding of the batch, in pixels


class Head(nn.Module):
    """From attended feature maps to losses or detections.

    Args:
        num_classes: K, without background.
        strides_px: of the feature levels, finest first.
    """

    def __init__(self, num_classes: int, strides_px: Sequence[int]) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.strides_px = tuple(strides_px)

    @abstractmethod
    def forward(self, features: Sequence[Tensor]) -> Raw:
        """L maps (N, C, H, W), finest first -> raw predictions, what the two methods below start from."""

    @abstractmethod
    def losses(self, raw: Raw, targets: Targets, image_sizes: ImageSizes) -> dict[str, Tensor]:
        """Scalar losses of a batch whose sum is to be minimised, finite even when the batch holds no object."""

    @abstractmethod
    def decode(self, raw: Raw, image_sizes: ImageSizes) -> list[Detected]:
        """Detections of every image, best first, boxes inside the image."""

    def check_levels(self, features: Sequence[Tensor]) -> None:
        """Raise a `ValueError` unless there is one map for each stride."""
        if len(features) != len(self.strides_px):
            raise ValueError(f"got {len(features)} feature maps, expected {len(self.strides_px)}: one for each stride")


def prediction_conv(channels: int, outputs: int, kernel_size: int, bias: float = 0.0) -> nn.Conv2d:
    """A convolution that keeps the map's size, weights N(0, .01), as dense detectors begin with."""
    conv = nn.Conv2d(channels, outputs, kernel_size, padding=kernel_size // 2)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.constant_(conv.get_parameter("bias"), bias)
    return conv
