"""The steps inside a block of the pyramid form, each with its maps and numbers: what explanations are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

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

BRANCH_NAMES = {HIGH: "high", MID: "mid", LOW: "low"}
_SOURCE = {"high": 1, "mid": 0, "low": -1}  # the level that a branch samples, counted from its own
_STRIDE = {"high": 1, "mid": 1, "low": 2}


@dataclass(frozen=True, eq=False)
class BranchSteps:
    """One branch of a level.

    Attributes:
        source: the level that it samples: one coarser for "high", one finer for "low".
        stride: positions of the source for one of the convolution's grid.
        offset: (N, 18, h, w), pairs (dy, dx) of the nine taps row by row, in positions of the source.
        mask: (N, 9, h, w) in 0..1. (h, w) is the grid of the convolution: that of the source for "high", which is
            upsampled afterwards, and else that of the level.
        features: (N, C, H, W), the deformable convolution after its GroupNorm, on the grid of the level.
        weight: (N, 1, 1, 1), its scale attention, in 0..1.
    """

    source: int
    stride: int
    offset: Tensor
    mask: Tensor
    features: Tensor
    weight: Tensor


@dataclass(frozen=True, eq=False)
class LevelSteps:
    """One level on its way through a block; every tensor is part of the graph that gradients flow through.

    Attributes:
        branches: by name, "high", "mid" and "low", as far as there are such.
        scaled: (N, C, H, W), the mean of the branches' features, each times its scale attention.
        slopes, intercepts: (2, N, C, 1, 1), the two lines of each channel's dynamic ReLU.
        output: (N, C, H, W), the larger of the two lines: what the block gives to the next.
    """

    branches: dict[str, BranchSteps]
    scaled: Tensor
    slopes: Tensor
    intercepts: Tensor
    output: Tensor

    @property
    def spatial(self) -> Tensor:
        """(N, C, H, W), the mean of the branches' features as they are, before scale attention weighs them."""
        return torch.stack([branch.features for branch in self.branches.values()]).mean(dim=0)

    @property
    def takes_first(self) -> Tensor:
        """(N, C, H, W) bool: where the first line of the dynamic ReLU is the larger one."""
        first, second = self.slopes * self.scaled + self.intercepts
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
            branches = {}
            for number, branch in checkpoint(branches_of, list(levels), use_reentrant=False).items():
                name = BRANCH_NAMES[number]
                weight = scale_attention(branch.features, parameters)
                branches[name] = BranchSteps(
                    index + _SOURCE[name], _STRIDE[name], branch.offset, branch.mask, branch.features, weight
                )
            scaled = torch.stack([branch.weight * branch.features for branch in branches.values()]).mean(dim=0)
            slopes, intercepts = relu_lines(scaled, parameters)
            first, second = slopes * scaled + intercepts
            steps.append(LevelSteps(branches, scaled, slopes, intercepts, torch.maximum(first, second)))
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
    for name, branch in level.branches.items():
        kernel = branch.mask.new_full((1, 1, 3, 3), 1 / TAPS)
        stride = (branch.stride, branch.stride)
        sampled = modulated_deform_conv2d(
            inputs[branch.source], branch.offset.detach(), kernel, None, stride, (1, 1), (1, 1), branch.mask.detach()
        )
        outputs.append(branch.weight.detach() * (upsample(sampled, size) if name == "high" else sampled))
    return torch.stack(outputs).mean(dim=0)
