"""The interface of every head, and the layers that heads share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dyzoo.config import HeadConfig

Raw = dict[str, list[Tensor]]
"""Predictions of a head for N images: a list over the levels for each kind of prediction."""

Detected = dict[str, Tensor]
"""Detections in one image: "boxes" (M, 4) float32 xyxy pixels inside the image, "scores" (M,) float32, highest first,
and "labels" (M,) int64."""

Targets = Sequence[Mapping[str, Tensor]]
"""Ground truth of each image: "boxes" (M, 4) xyxy pixels and "labels" (M,) int64 in [0, K), on the device of the
predictions; M may be 0."""

ImageSizes = Sequence[tuple[int, int]]
"""(H, W) of each image without the padding of the batch, in pixels."""


MOST_CANDIDATES = 10_000  # of a level or an image: NMS compares each with each


@dataclass(frozen=True)
class Limits:
    """The bounds within which candidates of a head become detections of an image.

    Attributes:
        nms_threshold: IoU above which, of two boxes of a class, the one of the lower score goes.
        max_detections: most detections of an image.
    """

    nms_threshold: float
    max_detections: int

    @classmethod
    def of(cls, config: HeadConfig) -> Limits:
        """A head's own."""
        return cls(config.nms_threshold, config.max_detections)

    def candidates(self, config: HeadConfig, count: int) -> int:
        """How many candidates take part in the place of the head's own `count`: as many times more as detections may
        come out, and never fewer."""
        more = self.max_detections / config.max_detections
        return max(count, min(round(count * more), MOST_CANDIDATES))


class Head(nn.Module):
    """From attended feature maps to losses or detections.

    Args:
        num_classes: K, without background.
        strides_px: strides of the feature levels, finest first.

    Attributes:
        inclusive_corners: while boxes are clipped, suppressed and brought to another size, x2 and y2 are those of the
            last pixel inside, so that a box is x2 - x1 + 1 wide.
    """

    inclusive_corners = False

    def __init__(self, num_classes: int, strides_px: Sequence[int]) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.strides_px = tuple(strides_px)

    @abstractmethod
    def forward(self, features: Sequence[Tensor]) -> Raw:
        """L maps (N, C, H, W), finest first -> predictions, which the two methods below start from."""

    @abstractmethod
    def losses(self, raw: Raw, targets: Targets, image_sizes: ImageSizes) -> dict[str, Tensor]:
        """Scalar losses of a batch by name, finite even when the batch holds no object; their sum is to be minimised.

        Args:
            raw: the predictions of `forward` for N images.
            targets: ground truth of the N images.
            image_sizes: sizes of the N images, for heads that clip boxes to them; others count anchors over the
                padding as background.
        """

    @torch.no_grad()
    def decode(self, raw: Raw, image_sizes: ImageSizes, limits: Limits | None = None) -> list[Detected]:
        """Detections of every image, as `detect` gives them, without gradients."""
        return self.detect(raw, image_sizes, limits)

    @abstractmethod
    def detect(self, raw: Raw, image_sizes: ImageSizes, limits: Limits | None = None) -> list[Detected]:
        """Detections of every image; gradients flow through their scores.

        Args:
            raw: the predictions of `forward` for N images.
            image_sizes: sizes of the N images; none for an empty batch.
            limits: in the place of the configuration's.
        """

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


def prior_bias(probability: float) -> float:
    """The bias that gives every class this probability at the start."""
    return -math.log((1 - probability) / probability)


def conv_tower(channels: int, num_convs: int, group_norm: bool = False) -> nn.Sequential:
    """3x3 convolutions, each followed by a ReLU, or by a GroupNorm and a ReLU.

    The groups are 32, or what divides the channels and leaves each group two: one alone, on a map of one position, has
    nothing to be normalised by.
    """
    layers: list[nn.Module] = []
    for _ in range(num_convs):
        layers.append(prediction_conv(channels, channels, 3))
        if group_norm:
            layers.append(nn.GroupNorm(min(math.gcd(32, channels), max(channels // 2, 1)), channels))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)
