"""The attention chain level by level, as operators that a translator takes whole: what exported graphs are made of.

Packed, a pyramid's sizes are sums of products, and each step of a traced graph compares them anew; kept apart, every
size is a multiple of one number, and a whole block is one node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from dyhead_kernels import BlockParameters, OffsetMode, Pyramid, dyhead_block
from torch import Tensor, nn

from dyzoo.dyhead.block import BRANCHES, NORM_GROUPS, DyHeadBlock
from dyzoo.dyhead.head import DyHead

DEFORM_CONV: Any = torch.ops.dyhead_kernels.deform_conv.default  # the operator of the tensor form


class Branch(NamedTuple):
    """The parameters of one branch: deformable convolution and GroupNorm."""

    weight: Tensor  # (C, C_in, 3, 3)
    bias: Tensor  # (C,)
    norm_weight: Tensor  # (C,)
    norm_bias: Tensor  # (C,)


class LevelwiseParameters(NamedTuple):
    """A block's parameters with a tensor for each branch, so that no graph has to take them apart."""

    offset_weight: Tensor
    offset_bias: Tensor
    high: Branch
    mid: Branch
    low: Branch
    scale_weight: Tensor
    scale_bias: Tensor
    relu_weight1: Tensor
    relu_bias1: Tensor
    relu_weight2: Tensor
    relu_bias2: Tensor

    @classmethod
    def from_list(cls, tensors: Sequence[Any]) -> LevelwiseParameters:
        """The inverse of `to_list`."""
        head, rest = tensors[:2], tensors[2 + BRANCHES * len(Branch._fields) :]
        parts = tensors[2 : len(tensors) - len(rest)]
        step = len(Branch._fields)
        branches = [Branch(*parts[start : start + step]) for start in range(0, len(parts), step)]
        return cls(*head, *branches, *rest)

    def to_list(self) -> list[Tensor]:
        """Every tensor, in order."""
        branches = [tensor for branch in (self.high, self.mid, self.low) for tensor in branch]
        return [self.offset_weight, self.offset_bias, *branches, *self[5:]]


@torch.library.custom_op("dyzoo::dyhead_block", mutates_args=())
def levelwise_block(levels: list[Tensor], parameters: list[Tensor], offset_mode: str) -> list[Tensor]:
    """One block over levels (N, C_in, H, W), finest first: (N, C, H, W) each.

    Args:
        levels: each half the size of the one before, rounded up.
        parameters: `LevelwiseParameters.to_list`.
        offset_mode: see `dyhead_kernels.dyhead_block`.
    """
    own = LevelwiseParameters.from_list(parameters)
    branches = [torch.stack(tensors) for tensors in zip(own.high, own.mid, own.low, strict=True)]
    stacked = BlockParameters(
        offset_weight=own.offset_weight,
        offset_bias=own.offset_bias,
        conv_weight=branches[0],
        conv_bias=branches[1],
        norm_weight=branches[2],
        norm_bias=branches[3],
        scale_weight=own.scale_weight,
        scale_bias=own.scale_bias,
        relu_weight1=own.relu_weight1,
        relu_bias1=own.relu_bias1,
        relu_weight2=own.relu_weight2,
        relu_bias2=own.relu_bias2,
    )
    mode = cast(OffsetMode, offset_mode)
    output = dyhead_block(Pyramid.from_levels(levels), stacked, offset_mode=mode, norm_groups=NORM_GROUPS)
    # copied also where they are contiguous: maps of one pixel would share the pyramid's memory, which outputs may not
    return [level.clone(memory_format=torch.contiguous_format) for level in output.levels()]


@levelwise_block.register_fake
def _(levels: list[Tensor], parameters: list[Tensor], offset_mode: str) -> list[Tensor]:
    channels = len(LevelwiseParameters.from_list(parameters).mid.bias)
    return [level.new_empty(level.shape[0], channels, level.shape[2], level.shape[3]) for level in levels]


class LevelwiseDyHead(nn.Module):
    """A `DyHead` whose blocks are one operator each, `dyzoo::dyhead_block`, over levels that are never packed.

    Args:
        dyhead: the blocks; their parameters are shared where a branch has a view of them.
    """

    def __init__(self, dyhead: DyHead) -> None:
        super().__init__()
        self.offset_modes = [cast(DyHeadBlock, block).offset_mode for block in dyhead.blocks]
        self.blocks = nn.ModuleList(_parameter_list(cast(DyHeadBlock, block)) for block in dyhead.blocks)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """L maps (N, C_in, H, W), finest first -> L maps (N, C, H, W) of the same sizes."""
        maps = list(levels)
        for parameters, mode in zip(self.blocks, self.offset_modes, strict=True):
            maps = levelwise_block(maps, list(cast(nn.ParameterList, parameters)), mode)
        return maps


def _parameter_list(block: DyHeadBlock) -> nn.ParameterList:
    bias = block.norm_bias.new_zeros(block.norm_bias.shape) if block.conv_bias is None else block.conv_bias
    high, mid, low = (
        Branch(block.conv_weight[index], bias[index], block.norm_weight[index], block.norm_bias[index])
        for index in range(BRANCHES)
    )
    own = LevelwiseParameters(
        block.offset_weight,
        block.offset_bias,
        high,
        mid,
        low,
        block.scale_weight,
        block.scale_bias,
        block.relu_weight1,
        block.relu_bias1,
        block.relu_weight2,
        block.relu_bias2,
    )
    tensors = (tensor.detach().clone() for tensor in own.to_list())
    return nn.ParameterList(nn.Parameter(tensor, requires_grad=False) for tensor in tensors)
