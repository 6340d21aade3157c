"""Square anchors on the grid of a feature level."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AnchorGrid:
    """One square anchor at every position of a level, positions in row-major order.

    Attributes:
        height, width: of the level, in positions.
        stride_px: distance between neighbouring anchors.
        side_px: side of every anchor.
        center_offset: place of the first centre, in units of the stride.
    """

    height: int
    width: int
    stride_px: int
    side_px: float
    center_offset: float

    def __len__(self) -> int:
        return self.height * self.width

    def axes(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Pixel coordinates of the centres: x of every column (W,), y of every row (H,), float32."""
        columns, rows = (
            torch.arange(size, dtype=torch.float32, device=device).add(self.center_offset).mul(self.stride_px)
            for size in (self.width, self.height)
        )
        return columns, rows

    def boxes(self, device: torch.device) -> Tensor:
        """(H * W, 4) float32 xyxy in pixels; they may reach outside the image."""
        columns, rows = self.axes(device)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        half = self.side_px / 2
        return torch.stack([x - half, y - half, x + half, y + half], dim=-1).flatten(0, 1)
