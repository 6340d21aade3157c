"""Layout of the packed pyramid: the places that the three branches of a block read and write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..deform_conv.packed.sampling import OutputMap, SamplingGrid, sampling_grid
from ..device_cache import DeviceCache, cached_on_device
from ..pyramid import level_starts

HIGH, MID, LOW = BRANCHES = range(3)


@dataclass(frozen=True)
class BranchLayout:
    """`mid` writes a buffer packed like the pyramid; `high` and `low` write one packed like its levels 1 and coarser.

    Attributes:
        shapes: (H, W) of each level, finest first.
    """

    shapes: tuple[tuple[int, int], ...]

    @property
    def levels(self) -> range:
        """Indices of the levels."""
        return range(len(self.shapes))

    @property
    def starts(self) -> tuple[int, ...]:
        """First packed position of each level, and S at the end."""
        return level_starts(self.shapes)

    def has(self, branch: int, level: int) -> bool:
        """Whether `branch` contributes to `level`."""
        return self.source(branch, level) in self.levels

    def source(self, branch: int, level: int) -> int:
        """The level that `branch` samples for `level`."""
        return level + (branch == HIGH) - (branch == LOW)

    def output(self, branch: int, level: int) -> int:
        """The level on whose grid `branch` computes its contribution to `level`."""
        return level + (branch == HIGH)

    def split(self, packed: Sequence[Tensor]) -> dict[tuple[int, int], Tensor]:
        """Buffers of high, mid and low, (N, S_i, C) each -> view (N, H * W, C) of every (branch, level) there is."""
        starts = self.starts
        views = {}
        for level in self.levels:
            for branch in BRANCHES:
                if self.has(branch, level):
                    output = self.output(branch, level)
                    first = 0 if branch == MID else starts[1]
                    views[branch, level] = packed[branch][:, starts[output] - first : starts[output + 1] - first]
        return views

    def grid(self, branch: int, dtype: torch.dtype, device: torch.device) -> SamplingGrid:
        """The sampling grid of a branch over all levels."""
        starts, maps = self.starts, []
        for level in self.levels:
            if self.has(branch, level):
                source = self.source(branch, level)
                stride = (2, 2) if branch == LOW else (1, 1)
                size = self.shapes[self.output(branch, level)]
                maps.append(OutputMap(size, self.shapes[source], starts[source], stride))
        return sampling_grid(device, tuple(maps), (3, 3), (1, 1), (1, 1), dtype)

    def upsample(self, rows: Tensor, level: int) -> Tensor:
        """(N, h * w, C) of the level coarser than `level` -> (N, H * W, C), bilinear with aligned corners."""
        image = rows.unflatten(1, self.shapes[level + 1]).permute(0, 3, 1, 2)
        image = F.interpolate(image, self.shapes[level], mode="bilinear", align_corners=True)
        return image.permute(0, 2, 3, 1).flatten(1, 2)

    def upsample_backward(self, grad: Tensor, level: int) -> Tensor:
        """The transpose of `upsample`: (N, H * W, C) of `level` -> (N, h * w, C) of the level coarser."""
        image = grad.unflatten(1, self.shapes[level]).permute(0, 3, 1, 2)
        shape = [*image.shape[:2], *self.shapes[level + 1]]
        image = torch.ops.aten.upsample_bilinear2d_backward(image, self.shapes[level], shape, align_corners=True)
        return image.permute(0, 2, 3, 1).flatten(1, 2)

    def upsampling_weights(self, level: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """(1, h * w), the weight of each pixel of the coarser level in the mean of `upsample`; they sum to one."""
        return _upsampling_weights(device, self.shapes[level + 1], self.shapes[level], dtype)


@cached_on_device(256)
def _upsampling_weights(
    cache: DeviceCache, size: tuple[int, int], target: tuple[int, int], dtype: torch.dtype
) -> Tensor:
    axes = [line_weights(small, large) for small, large in zip(size, target, strict=True)]
    return cache.tensor(torch.outer(*axes).view(1, -1).to(dtype))


def line_weights(small: int, large: int) -> Tensor:
    """(small,) float64, the weight of each of `small` pixels in the mean of the `large` that they are upsampled to."""
    units = torch.eye(small, dtype=torch.float64, device="cpu")[None]
    return F.interpolate(units, large, mode="linear", align_corners=True)[0].mean(dim=1)
