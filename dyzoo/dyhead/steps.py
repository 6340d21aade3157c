"""The steps inside a block, each with its maps and numbers: what explanations are made of.

`block_steps` gives those of the pyramid form; `tensor_steps` has the tensor form's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from dyhead_kernels.deform_conv.reference import modulated_deform_conv2d
from dyhead_kernels.dyhead_block.attention.reference import relu_lines, scale_attention
from dyhead_kernels.dyhead_block.layout import HIGH, LOW, MID
from dyhead_kernels.dyhead_block.mix.reference import upsample
from dyhead_kernels.dyhead_block.parameters import TAPS
from dyhead_kernels.dyhead_block.reference import branch_maps
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dyzoo.dyhead.block import NORM_GROUPS, DyHeadBlock

Stage = Literal["before", "scale", "spatial", "task"]
Branch = Literal["high", "mid", "low", "coarser", "same", "finer"]

_NAMES: dict[int, Branch] = {HIGH: "high", MID: "mid", LOW: "low"}
_SOURCE = {HIGH: 1, MID: 0, LOW: -1}  # the level that a branch samples, counted from its own
_STRIDE = {HIGH: 1, MID: 1, LOW: 2}


@dataclass(frozen=True, eq=False)
class BranchSteps:
    """One branch of a level: a kernel, the levels that it samples, and where.

    In the pyramid form "mid" samples the level itself, "low" the level one finer and "high" the level one coarser; in
    the tensor form "same" samples the level itself, "finer" all finer levels and "coarser" all coarser ones, all three
    at the same points.

    Attributes:
        weights: (N, 1, 1, 1) by the level that is sampled, the scale attention that it is multiplied by, in 0..1.
        stride: positions of the source for one of the convolution's grid.
        offset: (N, 18, h, w), pairs (dy, dx) of the nine taps row by row, in positions of the source.
        mask: (N, 9, h, w) in 0..1. (h, w) is the grid of the convolution: that of the source for "high", which is
            upsampled afterwards, and else that of the level.
    """

    weights: dict[int, Tensor]
    stride: int
    offset: Tensor
    mask: Tensor


@dataclass(frozen=True, eq=False)
class LevelSteps:
    """One level on its way through a block; every tensor is part of the graph that gradients flow through.

    Attributes:
        stages: the maps (N, C, H, W) before the block and after each attention, in the order in which they are
            computed, the task-aware one last. There is one map at each stage, but after spatial-aware attention of the
            pyramid form one for each branch, in their order: the deformable convolution after its GroupNorm.
        branches: by name, as far as there are such.
        slopes, intercepts: (2, N, C, 1, 1), the two lines of each channel's dynamic ReLU.
    """

    stages: dict[Stage, list[Tensor]]
    branches: dict[Branch, BranchSteps]
    slopes: Tensor
    intercepts: Tensor

    @property
    def maps(self) -> dict[Stage, Tensor]:
        """(N, C, H, W) of each stage: its map, or the mean of its branches' as they are, before weights count."""
        return {
            stage: maps[0] if len(maps) == 1 else torch.stack(maps).mean(dim=0) for stage, maps in self.stages.items()
        }

    @property
    def output(self) -> Tensor:
        """(N, C, H, W): what the block gives to the next."""
        return self.stages["task"][0]

    @property
    def takes_first(self) -> Tensor:
        """(N, C, H, W) bool: where the first line of the dynamic ReLU is the larger one."""
        *_, before, _ = self.maps.values()
        first, second = self.slopes * before + self.intercepts
        return first >= second


def block_steps(block: DyHeadBlock, levels: Sequence[Tensor]) -> list[LevelSteps]:
    """A block as its reference form computes it: deformable convolutions, scale attention, dynamic ReLU.

    Where gradients are recorded, the inside of the deformable convolutions of a level is computed once more for them,
    so that no more than one level of one block is held.

    Args:
        block: of the pyramid form.
        levels: L maps (N, C_in, H, W), finest first, in the dtype of the parameters.
    """
    parameters = block.stacked()
    steps = []
    with torch.autocast(levels[0].device.type, enabled=False):
        for index in range(len(levels)):
            branches_of = partial(
                branch_maps,
                index=index,
                parameters=parameters,
                offset_mode=block.offset_mode,
                norm_groups=NORM_GROUPS,
            )
            branches: dict[Branch, BranchSteps] = {}
            features, weighed = [], []
            for number, branch in checkpoint(branches_of, list(levels), use_reentrant=False).items():
                weight = scale_attention(branch.features, parameters)
                features.append(branch.features)
                weighed.append(weight * branch.features)
                weights = {index + _SOURCE[number]: weight}
                branches[_NAMES[number]] = BranchSteps(weights, _STRIDE[number], branch.offset, branch.mask)
            scaled = torch.stack(weighed).mean(dim=0)
            slopes, intercepts = relu_lines(scaled, parameters)
            first, second = slopes * scaled + intercepts
            output = torch.maximum(first, second)
            stages: dict[Stage, list[Tensor]] = {
                "before": [levels[index]], "spatial": features, "scale": [scaled], "task": [output]
            }  # fmt: skip
            steps.append(LevelSteps(stages, branches, slopes, intercepts))
    return steps


def follow_back(steps: Sequence[LevelSteps], shares: Sequence[Tensor]) -> list[Tensor]:
    """Where a block takes from what it gives: sampling points followed back from its output to its input.

    Each position of the output shares what it has among the sampling points of its branches, in proportion to a
    branch's scale attention and a point's mask, and each point among the four positions around it. What the channels
    do with it does not count; the shares are all positive, and what falls outside the maps is lost.

    Args:
        steps: one block's, of one image.
        shares: (h, w) of each level of the output.

    Returns:
        (h, w) of each level of the input, with a sum of one unless everything is lost.
    """
    with torch.enable_grad():
        inputs = [torch.zeros_like(share)[None, None].requires_grad_() for share in shares]
        outputs = [
            _average(level, inputs, (share.shape[0], share.shape[1]))
            for level, share in zip(steps, shares, strict=True)
        ]
        found = torch.autograd.grad(outputs, inputs, [share[None, None] for share in shares], materialize_grads=True)
    total = torch.stack([each.sum() for each in found]).sum().clamp(min=torch.finfo(found[0].dtype).tiny)
    return [each[0, 0] / total for each in found]


def _average(level: LevelSteps, inputs: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """The level's output if each of its convolutions were the plain mean of its sampling points: (1, 1, H, W)."""
    outputs = []
    for branch in level.branches.values():
        kernel = branch.mask.new_full((1, 1, 3, 3), 1 / TAPS)
        stride = (branch.stride, branch.stride)
        source = torch.stack([weight.detach() * inputs[index] for index, weight in branch.weights.items()]).sum(dim=0)
        sampled = modulated_deform_conv2d(
            source, branch.offset.detach(), kernel, None, stride, (1, 1), (1, 1), branch.mask.detach()
        )
        outputs.append(upsample(sampled, size))  # "high" alone has another size
    return torch.stack(outputs).sum(dim=0) / sum(len(branch.weights) for branch in level.branches.values())
