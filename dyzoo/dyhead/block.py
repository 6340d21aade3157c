"""One DyHead block in its pyramid form, as microsoft/DynamicHead's `DyConv` computes it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from dyhead_kernels import BlockParameters, OffsetMode, Pyramid, dyhead_block
from dyhead_kernels.dyhead_block.parameters import OFFSETS_AND_MASKS, TAPS
from torch import Tensor, nn

BRANCHES = 3  # high, mid, low: the order of every stacked parameter
REDUCTION = 4  # DyReLU's bottleneck
NORM_GROUPS = 16  # of each GroupNorm, as `dyhead_block` has them where nothing else is said


class DyHeadBlock(nn.Module):
    """Scale-, spatial- and task-aware attention over a whole pyramid.

    The parameters of the three branches are stacked in the order high, mid, low, which is how the kernels read
    them. Initialisation: deformable convolutions uniform +-1/sqrt(9 C_in) and scale attention N(0, .01) as in the
    official code; offsets start at zero as in DCNv2 (Zhu et al., CVPR 2019), so a new block samples the plain grid.

    Args:
        in_channels, channels: C_in of the input pyramid and C of the output.
        offset_mode: how the `high` branch reads its oversize offset map, see `dyhead_kernels.dyhead_block`.
        conv_bias: deformable convolutions with a bias (official) or without (mmdetection).
    """

    def __init__(
        self, in_channels: int, channels: int, offset_mode: OffsetMode = "resize", conv_bias: bool = True
    ) -> None:
        super().__init__()
        self.offset_mode: OffsetMode = offset_mode
        hidden = max(channels // REDUCTION, 1)
        self.offset_weight = nn.Parameter(torch.zeros(OFFSETS_AND_MASKS, in_channels, 3, 3))
        self.offset_bias = nn.Parameter(torch.zeros(OFFSETS_AND_MASKS))
        self.conv_weight = nn.Parameter(torch.empty(BRANCHES, channels, in_channels, 3, 3))
        self.conv_bias = nn.Parameter(torch.zeros(BRANCHES, channels)) if conv_bias else None
        self.norm_weight = nn.Parameter(torch.ones(BRANCHES, channels))
        self.norm_bias = nn.Parameter(torch.zeros(BRANCHES, channels))
        self.scale_weight = nn.Parameter(torch.empty(channels))
        self.scale_bias = nn.Parameter(torch.zeros(1))
        self.relu_weight1 = nn.Parameter(torch.empty(hidden, channels))
        self.relu_bias1 = nn.Parameter(torch.empty(hidden))
        self.relu_weight2 = nn.Parameter(torch.empty(4 * channels, hidden))
        self.relu_bias2 = nn.Parameter(torch.empty(4 * channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial values anew."""
        bound = 1 / math.sqrt(TAPS * self.conv_weight.shape[2])
        nn.init.uniform_(self.conv_weight, -bound, bound)
        nn.init.normal_(self.scale_weight, std=0.01)
        for weight, bias in ((self.relu_weight1, self.relu_bias1), (self.relu_weight2, self.relu_bias2)):
            bound = 1 / math.sqrt(weight.shape[1])  # nn.Linear's default, as in the official DyReLU
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DyHeadBlock:
        """Do to each tensor what `to` and its kin do. The stacked weights are shown as those of one convolution:
        `to(memory_format=torch.channels_last)`, which has no meaning for five dimensions, then takes them too."""

        def as_one(tensor: Tensor) -> Tensor:
            return fn(tensor.flatten(0, 1)).unflatten(0, tensor.shape[:2]) if tensor.dim() == 5 else fn(tensor)

        return super()._apply(as_one, recurse)  # type: ignore[no-any-return]

    def stacked(self) -> BlockParameters:
        """The parameters as the kernels take them."""
        own: dict[str, Tensor] = dict(self.named_parameters(recurse=False))
        return BlockParameters(**{"conv_bias": None, **own})  # type: ignore[arg-type]

    def forward(self, pyramid: Pyramid) -> Pyramid:
        """(N, S, C_in) -> (N, S, C), the level shapes unchanged."""
        return dyhead_block(pyramid, self.stacked(), offset_mode=self.offset_mode)
