"""The parts of an explanation: the numbers of branches, levels and blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from dyzoo.errors import SettingError
from dyzoo.images.detections import Detections

Stage = Literal["before", "spatial", "scale", "task"]
Branch = Literal["high", "mid", "low"]
Panel = Literal["maps", "sampling", "channels", "object"]

STAGES: tuple[Stage, ...] = get_args(Stage)
BRANCHES: tuple[Branch, ...] = get_args(Branch)
PANELS: tuple[Panel, ...] = get_args(Panel)


@dataclass(frozen=True, eq=False)
class BranchExplained:
    """Where one branch of a level samples, and what it weighs.

    Attributes:
        source: the level that it samples.
        stride: positions of the source for one of the convolution's grid.
        offsets: (9, 2, h, w) float32, (dy, dx) of each tap in positions of the source.
        masks: (9, h, w) float32 in 0..1.
        weight: its scale attention, in 0..1.
    """

    source: int
    stride: int
    offsets: np.ndarray
    masks: np.ndarray
    weight: float


@dataclass(frozen=True, eq=False)
class LevelExplained:
    """One level on its way through one block.

    Attributes:
        stride_px: pixels of the network's input for one position.
        activations: (H, W) float32 after each stage, the mean over the channels of the absolute values.
        attributions: (H, W) float32 after each stage, the Euclidean norm over the channels of the gradient of the
            detection's score times the activation; None where no detection is explained.
        branches: by name; the finest level has no "low" one and the coarsest no "high" one.
        slopes, intercepts: (2, C) float32, the two lines of each channel's dynamic ReLU.
        first_share: (C,) float32, the share of positions at which the first line is the larger one.
    """

    stride_px: int
    activations: Mapping[Stage, np.ndarray]
    attributions: Mapping[Stage, np.ndarray] | None
    branches: Mapping[Branch, BranchExplained]
    slopes: np.ndarray
    intercepts: np.ndarray
    first_share: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.activations["before"].shape
        return height, width


@dataclass(frozen=True, eq=False)
class Explained:
    """The way of one picture through a detector's attentions, and the origin of one detection.

    Places are in pixels of the network's input. A position of a level stands for the place where the head has its
    anchors: x = (column + center_offset) * stride, y = (row + center_offset) * stride.

    Attributes:
        pixels: (h, w, 3) uint8, the picture as the network saw it, without padding.
        detections: what was found, in pixels of the picture as it was given.
        detection: the one that is explained; None where nothing was found.
        blocks: of each block the levels, finest first.
        block, level: those to look at first.
        place: (x, y), where sampling points are looked at.
        center_offset: 0 or 0.5, in units of the stride.
        saliency: (h, w) float32, the norm over the colours of the gradient of the detection's score by the pixels,
            normalised ones; None where no detection is explained.
        reach: for each block the (H, W) float32 of each level of its input: the share that the place of the last
            block's output, at `level`, takes from each position when sampling points are followed back. All of a
            block's have a sum of one.
    """

    pixels: np.ndarray
    detections: Detections
    detection: int | None
    blocks: tuple[tuple[LevelExplained, ...], ...]
    block: int
    level: int
    place: tuple[float, float]
    center_offset: float
    saliency: np.ndarray | None
    reach: tuple[tuple[np.ndarray, ...], ...]

    def chosen(self, block: int | None, level: int | None) -> tuple[int, int]:
        """The block and the level of these numbers, or those of the explanation. Raises `SettingError`: not there."""
        return (
            self.block if block is None else check_index("block", block, len(self.blocks)),
            self.level if level is None else check_index("level", level, len(self.blocks[0])),
        )


def check_index(name: str, index: Any, count: int) -> int:
    """A number of one of `count` things. Raises `SettingError`: it is none."""
    if type(index) is not int or not 0 <= index < count:
        expected = "0" if count == 1 else f"0 to {count - 1}"
        raise SettingError(f"{name} is {index!r}, expected {expected}")
    return index
