"""One DyHead block in its pyramid form, as microsoft/DynamicHead's `DyConv` computes it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields

import torch
from dyhead_kernels import BlockParameters, OffsetMode, Pyramid, dyhead_block
from dyhead_kernels.dyhead_block.parameters import OFFSETS, TAPS, parameter_shapes
from torch import Tensor, nn

BRANCHES = 3  # high, mid, low: the order of every stacked parameter
REDUCTION = 4  # DyReLU's bottleneck
NORM_GROUPS = 16  # of each GroupNorm, as `dyhead_block` has them where nothing else is said

PARAMETERS = tuple(field.name for field in fields(BlockParameters))
SCALE = ("scale_weight", "scale_bias")
SPATIAL = ("offset_weight", "offset_bias")
TASK = ("relu_weight1", "relu_bias1", "relu_weight2", "relu_bias2")
WHOLE_SCALE = 3.0  # hsigmoid(x) = min(max(x + 3, 0), 6) / 6 of it is exactly one
WHOLE_MASK = 64.0  # its sigmoid is exactly one in every dtype, float64 included


class DyHeadBlock(nn.Module):
    """Scale-, spatial- and task-aware attention over a whole pyramid.

    The parameters of the three branches are stacked in the order high, mid, low, which is how the kernels read
    them. Initialisation: deformable convolutions uniform +-1/sqrt(9 C_in) and scale attention N(0, .01) as in the
    official code; offsets start at zero as in DCNv2 (Zhu et al., CVPR 2019), so a new block samples the plain grid.

    An attention that is switched off has constants in the place of its parameters, with which the same kernels compute
    its neutral form: a scale attention of one, nine taps on the grid with masks of one, a dynamic ReLU whose theta is
    zero. The constants move with the block as buffers do, learn nothing and are in no state dict.

    Args:
        in_channels, channels: C_in of the input pyramid and C of the output.
        offset_mode: how the `high` branch reads its oversize offset map, see `dyhead_kernels.dyhead_block`.
        conv_bias: deformable convolutions with a bias (official) or without (mmdetection).
        scale: scale-aware attention; without it a level is the mean of its branches.
        spatial: spatial-aware attention; without it the branches are plain 3x3 convolutions.
        task: task-aware attention; without it the activation is a ReLU.
    """

    offset_weight: Tensor
    offset_bias: Tensor
    conv_weight: Tensor
    conv_bias: Tensor | None
    norm_weight: Tensor
    norm_bias: Tensor
    scale_weight: Tensor
    scale_bias: Tensor
    relu_weight1: Tensor
    relu_bias1: Tensor
    relu_weight2: Tensor
    relu_bias2: Tensor

    def __init__(
        self,
        in_channels: int,
        channels: int,
        offset_mode: OffsetMode = "resize",
        conv_bias: bool = True,
        *,
        scale: bool = True,
        spatial: bool = True,
        task: bool = True,
    ) -> None:
        super().__init__()
        self.offset_mode: OffsetMode = offset_mode
        switches = ((scale, SCALE), (spatial, SPATIAL), (task, TASK))
        self._constants = frozenset(name for is_on, names in switches if not is_on for name in names)
        for name, shape in parameter_shapes(in_channels, channels, max(channels // REDUCTION, 1)).items():
            if name in self._constants:
                self.register_buffer(name, torch.empty(shape), persistent=False)
            else:
                is_left_out = name == "conv_bias" and not conv_bias
                self.register_parameter(name, None if is_left_out else nn.Parameter(torch.empty(shape)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial values anew.

        All are drawn, also where constants take their place: what is left of a block, and what is made after it, begins
        alike with an attention and without.
        """
        for name in ("offset_weight", "offset_bias", "norm_bias", "scale_bias"):
            nn.init.zeros_(getattr(self, name))
        if self.conv_bias is not None:
            nn.init.zeros_(self.conv_bias)
        nn.init.ones_(self.norm_weight)
        bound = 1 / math.sqrt(TAPS * self.conv_weight.shape[2])
        nn.init.uniform_(self.conv_weight, -bound, bound)
        nn.init.normal_(self.scale_weight, std=0.01)
        for weight, bias in ((self.relu_weight1, self.relu_bias1), (self.relu_weight2, self.relu_bias2)):
            bound = 1 / math.sqrt(weight.shape[1])  # nn.Linear's default, as in the official DyReLU
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)
        for name in self._constants:
            nn.init.zeros_(getattr(self, name))
        if "scale_bias" in self._constants:
            nn.init.constant_(self.scale_bias, WHOLE_SCALE)
        if "offset_bias" in self._constants:
            nn.init.constant_(self.offset_bias[OFFSETS:], WHOLE_MASK)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DyHeadBlock:
        """Do to each tensor what `to` and its kin do. The stacked weights are shown as those of one convolution:
        `to(memory_format=torch.channels_last)`, which has no meaning for five dimensions, then takes them too."""

        def as_one(tensor: Tensor) -> Tensor:
            return fn(tensor.flatten(0, 1)).unflatten(0, tensor.shape[:2]) if tensor.dim() == 5 else fn(tensor)

        return super()._apply(as_one, recurse)  # type: ignore[no-any-return]

    def stacked(self) -> BlockParameters:
        """The parameters as the kernels take them."""
        return BlockParameters(**{name: getattr(self, name) for name in PARAMETERS})

    def forward(self, pyramid: Pyramid) -> Pyramid:
        """(N, S, C_in) -> (N, S, C), the level shapes unchanged."""
        return dyhead_block(pyramid, self.stacked(), offset_mode=self.offset_mode)
