"""The parts of an explanation: the numbers of branches, levels and blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from dyzoo.dyhead.steps import Branch, Stage
from dyzoo.errors import SettingError
from dyzoo.images.detections import Detections

Form = Literal["pyramid", "tensor"]
Panel = Literal["maps", "sampling", "channels", "object"]

BRANCHES: tuple[Branch, ...] = get_args(Branch)
PANELS: tuple[Panel, ...] = get_args(Panel)


@dataclass(frozen=True, eq=False)
class BranchExplained:
    """Where one branch of a level samples, and what it weighs.

    Attributes:
        weights: by the level that is sampled, the scale attention that it is multiplied by, in 0..1. A branch of the
            pyramid form samples one level, "coarser" and "finer" of the tensor form one or more.
        stride: positions of the source for one of the convolution's grid.
        offsets: (9, 2, h, w) float32, (dy, dx) of each tap in positions of the source.
        masks: (9, h, w) float32 in 0..1.
    """

    weights: Mapping[int, float]
    stride: int
    offsets: np.ndarray
    masks: np.ndarray


@dataclass(frozen=True, eq=False)
class LevelExplained:
    """One level on its way through one block.

    Attributes:
        stride_px: stride of the level in the pyramid, which is how it comes to the head.
        cell_px: (height, width) of one of its positions in the blocks, in pixels of the network's input: the stride in
            the pyramid form; in the tensor form, where all levels have the size of the median one, the same for all.
        activations: (H, W) float32 at each stage, in the order of the block, the mean over the channels of the
            absolute values.
        attributions: (H, W) float32 at each stage, the Euclidean norm over the channels of the gradient of the
            detection's score times the activation; None where no detection is explained.
        branches: by name, "high", "mid" and "low" in the pyramid form, "coarser", "same" and "finer", which have their
            points in common, in the tensor form; as far as there are such levels.
        slopes, intercepts: (2, C) float32, the two lines of each channel's dynamic ReLU.
        first_share: (C,) float32, the share of positions at which the first line is the larger one.
    """

    stride_px: int
    cell_px: tuple[float, float]
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
    anchors, and in the tensor form, whose levels are resized, for the middle of its cell:
    y, x = (row + center_offset) * cell height, (column + center_offset) * cell width.

    Attributes:
        form: the form of the DyHead, "pyramid" or "tensor", see `dyzoo.config.DyHeadConfig`.
        switched_off: the attentions that the blocks do without.
        pixels: (h, w, 3) uint8, the picture as the network saw it, without padding.
        detections: what was found, in pixels of the picture as it was given.
        detection: the one that is explained; None where nothing was found.
        blocks: of each block the levels, finest first.
        block, level: those to look at first.
        place: (x, y), where sampling points are looked at.
        center_offset: 0..1, in cells; 0.5 in the tensor form.
        saliency: (h, w) float32, the norm over the colours of the gradient of the detection's score by the pixels,
            normalised ones; None where no detection is explained.
        reach: for each block the (H, W) float32 of each level of its input: the share that the place of the last
            block's output, at `level`, takes from each position when sampling points are followed back. All of a
            block's have a sum of one.
    """

    form: Form
    switched_off: tuple[Stage, ...]
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

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that each block and level has maps of, in the order in which the blocks compute them."""
        return tuple(self.blocks[0][0].activations)

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
