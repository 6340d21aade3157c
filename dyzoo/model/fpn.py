"""Feature pyramid network (Lin et al., CVPR 2017) with the extra levels of RetinaNet or of Faster R-CNN."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from dyzoo.config import FPNConfig


class FPN(nn.Module):
    """A backbone's maps -> P3..P7 or P2..P6, all of `config.channels` channels, strides `config.strides_px`.

    Nearest-neighbour top-down path and 3x3 output convolutions. The levels above P5 are made from P5's *output*: P6
    and P7 by 3x3 convolutions of stride 2, as in detectron2's `LastLevelP6P7(in_feature="p5")` and mmdetection's
    `add_extra_convs="on_output"`, or P6 as every second position, as in detectron2's `LastLevelMaxPool`.
    """

    def __init__(self, config: FPNConfig, in_channels: Sequence[int]) -> None:
        super().__init__()
        channels = config.channels
        self.config = config
        self.lateral_convs = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in in_channels)
        self.output_convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels)
        if config.top == "convs":
            self.p6 = nn.Conv2d(channels, channels, 3, stride=2)
            self.p7 = nn.Conv2d(channels, channels, 3, stride=2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (N, C_i, H, W) of `config.backbone_strides_px` -> levels (N, channels, h, w), finest first."""
        merged = [conv(level) for conv, level in zip(self.lateral_convs, maps, strict=True)]
        for fine, coarse in zip(range(len(merged) - 2, -1, -1), range(len(merged) - 1, 0, -1), strict=True):
            merged[fine] = merged[fine] + F.interpolate(merged[coarse], size=merged[fine].shape[-2:], mode="nearest")
        levels = [conv(level) for conv, level in zip(self.output_convs, merged, strict=True)]
        if self.config.top == "pool":
            return [*levels, F.max_pool2d(levels[-1], kernel_size=1, stride=2)]
        p6 = self.p6(_pad(levels[-1]))
        p7 = self.p7(_pad(p6.relu() if self.config.relu_before_p7 else p6))
        return [*levels, p6, p7]


def _pad(level: Tensor) -> Tensor:
    """One zero on every side, in place of `padding=1`.

    Where a map is 1x1, oneDNN's bfloat16 weight gradient of a strided convolution leaves the taps that only ever meet
    padding unwritten (seen with torch 2.15 on a CPU), and the training turns to NaN. Zeros that are there are written.
    """
    return F.pad(level, (1, 1, 1, 1))
