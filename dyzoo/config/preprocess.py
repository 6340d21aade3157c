"""How a picture becomes network input, and the scale at which a detector has learnt to see objects."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from dyzoo.config.values import Range

EdgePx = Annotated[int, Range(1, 16_384)]
Scale = Annotated[float, Range(1e-3, 1e4)]
Mean = Annotated[float, Range(-1e4, 1e4)]


@dataclass(frozen=True)
class TrainingScale:
    """The pictures and objects that a detector was trained on, medians, in pixels of the pictures as they came.

    Attributes:
        image_size: (H, W) of the pictures.
        object_px: square root of the area of the objects' boxes in pictures of that size.
    """

    image_size: tuple[Annotated[int, Range(32, 1_000_000)], Annotated[int, Range(32, 1_000_000)]]
    object_px: Annotated[float, Range(1, 1_000_000)]


@dataclass(frozen=True)
class PreprocessConfig:
    """How an image becomes network input. Mean and std are on the 0..255 scale, in `channel_order`.

    `training_scale` is what the detector was trained on, None where that is not known (before version 0.2 it was not
    written down).
    """

    shortest_edge: EdgePx = 800
    longest_edge: EdgePx = 1333
    channel_order: Literal["RGB", "BGR"] = "RGB"
    mean: tuple[Mean, Mean, Mean] = (123.675, 116.28, 103.53)
    std: tuple[Scale, Scale, Scale] = (58.395, 57.12, 57.375)
    size_divisor: Annotated[int, Range(1, 512)] = 128
    training_scale: TrainingScale | None = None

    def at(self, shortest_edge: int) -> PreprocessConfig:
        """The same with another shortest edge; the longest keeps its proportion to it."""
        return replace(
            self,
            shortest_edge=shortest_edge,
            longest_edge=round(self.longest_edge * shortest_edge / self.shortest_edge),
        )
