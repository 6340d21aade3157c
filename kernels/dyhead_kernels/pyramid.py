"""`Pyramid`: all levels of a feature pyramid in one buffer, channels last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor


def level_starts(shapes: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """First packed position of each level of (H, W), and the number of positions at the end."""
    return tuple(accumulate((height * width for height, width in shapes), initial=0))


@dataclass(frozen=True)
class Pyramid:
    """L levels packed one after the other, finest first.

    Attributes:
        values: (N, S, C), any floating dtype; S is the sum of H * W over the levels.
        shapes: (H, W) of each level.

    This is the paper's L x S x C tensor (Dai et al., CVPR 2021, section 3.1) without resizing the levels.
    """

    values: Tensor
    shapes: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        positions = sum(height * width for height, width in self.shapes)
        if self.values.ndim != 3 or self.values.shape[1] != positions:
            raise ValueError(
                f"values is {tuple(self.values.shape)}, expected (N, {positions}, C): the levels {self.shapes} "
                f"hold {positions} positions"
            )

    @classmethod
    def from_levels(cls, levels: Sequence[Tensor]) -> Pyramid:
        """Pack maps of (N, C, H, W), finest first. Copies once; gradients flow through."""
        if not levels:
            raise ValueError("a pyramid needs at least one level, got an empty sequence")
        batch, channels = levels[0].shape[:2]
        for index, level in enumerate(levels):
            if level.ndim != 4 or level.shape[:2] != (batch, channels):
                raise ValueError(
                    f"level {index} is {tuple(level.shape)}, expected ({batch}, {channels}, H, W) like level 0"
                )
        values = torch.cat([level.permute(0, 2, 3, 1).flatten(1, 2) for level in levels], dim=1)
        return cls(values, tuple((level.shape[2], level.shape[3]) for level in levels))

    @property
    def starts(self) -> tuple[int, ...]:
        """First packed position of each level, and S at the end."""
        return level_starts(self.shapes)

    def level(self, index: int) -> Tensor:
        """Level `index` as a zero-copy (N, C, H, W) view in channels-last memory."""
        height, width = self.shapes[index]
        start = self.starts[index]
        rows = self.values[:, start : start + height * width]
        return rows.unflatten(1, (height, width)).permute(0, 3, 1, 2)

    def levels(self) -> list[Tensor]:
        """Every level, finest first, as zero-copy (N, C, H, W) views."""
        return [self.level(index) for index in range(len(self.shapes))]
