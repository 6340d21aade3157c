"""Feature pyramid network (Lin et al., CVPR 2017) with the two extra levels of RetinaNet."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from dyzoo.config import FPNConfig

STRIDES_PX = (8, 16, 32, 64, 128)


class FPN(nn.Module):
    """Maps of strides 8, 16, 32 -> P3..P7 of `config.channels` channels, strides `STRIDES_PX`.

    Nearest-neighbour top-down path, 3x3 output convolutions, P6 and P7 by 3x3 stride-2 convolutions from P5's
    *output*, as in detectron2's `LastLevelP6P7(in_feature="p5")` and mmdetection's `add_extra_convs="on_output"`.
    """

    def __init__(self, config: FPNConfig, in_channels: Sequence[int]) -> None:
        super().__init__()
        channels = config.channels
        self.relu_before_p7 = config.relu_before_p7
        self.lateral_convs = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in in_channels)
        self.output_convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels)
        self.p6 = nn.Conv2d(channels, channels, 3, stride=2)
        self.p7 = nn.Conv2d(channels, channels, 3, stride=2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Three maps (N, C_i, H, W), finest first -> five maps (N, channels, h, w), finest first."""
        merged = [conv(level) for conv, level in zip(self.lateral_convs, maps, strict=True)]
        for fine, coarse in zip(range(len(merged) - 2, -1, -1), range(len(merged) - 1, 0, -1), strict=True):
            merged[fine] = merged[fine] + F.interpolate(merged[coarse], size=merged[fine].shape[-2:], mode="nearest")
        levels = [conv(level) for conv, level in zip(self.output_convs, merged, strict=True)]
        p6 = self.p6(_pad(levels[-1]))
        p7 = self.p7(_pad(p6.relu() if self.relu_before_p7 else p6))
        return [*levels, p6, p7]


def _pad(level: Tensor) -> Tensor:
    """One zero on every side, in place of `padding=1`.

    Where a map is 1x1, oneDNN's bfloat16 weight gradient of a strided convolution leaves the taps that only ever meet
    padding unwritten (seen with torch 2.15 on a CPU), and the training turns to NaN. Zeros that are there are written.
    """
    return F.pad(level, (1, 1, 1, 1))
