"""The stack of DyHead blocks."""

from __future__ import annotations

from collections.abc import Sequence

from dyhead_kernels import Pyramid
from torch import Tensor, nn

from dyzoo.config import DyHeadConfig
from dyzoo.dyhead.block import DyHeadBlock


class DyHead(nn.Module):
    """Feature maps in, attended feature maps out; the pyramid is packed once and stays packed between blocks."""

    def __init__(self, config: DyHeadConfig, in_channels: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            DyHeadBlock(
                in_channels if index == 0 else config.channels,
                config.channels,
                config.offset_mode,
                config.conv_bias,
                scale=config.scale,
                spatial=config.spatial,
                task=config.task,
            )
            for index in range(config.num_blocks)
        )

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """L maps (N, C_in, H, W), finest first -> L maps (N, C, H, W) of the same sizes."""
        pyramid = Pyramid.from_levels(levels)
        for block in self.blocks:
            pyramid = block(pyramid)
        return pyramid.levels()
