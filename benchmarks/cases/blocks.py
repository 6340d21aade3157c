"""DyHead blocks over the levels P3..P7: one, or the stack of a head."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from dyhead_kernels import BlockParameters, OffsetMode
from torch import Tensor, nn

from dyzoo.dyhead import DyHeadBlock

from ..work import TAPS, blocks_work, level_shapes
from .case import BLOCKS, CHANNELS, Case, Exchangeable, Setup, rounded

# what both published code bases compute; also the least work for an operator made of steps
OFFSET_MODE: OffsetMode = "flat"


class Stack(Exchangeable):
    """The blocks of a head: their parameters, computed by exchangeable operators."""

    projections: None = None  # those of a `DyHead`, in the place of which it may stand

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """L maps (N, C, H, W), finest first -> the same."""
        assert self.operators is not None
        return self.operators.blocks(levels, [parameters_of(block) for block in self.blocks])


class StackOfLevels(nn.Module):
    """A `Stack` that takes its levels as named tensors."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.stack = stack

    def forward(self, **levels: Tensor) -> tuple[Tensor, ...]:
        """`level0`, `level1`, ... -> a tuple of the attended levels."""
        return tuple(self.stack(list(levels.values())))


def parameters_of(block: nn.Module) -> BlockParameters:
    """The parameters of a `DyHeadBlock`."""
    return BlockParameters(**{"conv_bias": None, **dict(block.named_parameters(recurse=False))})  # type: ignore[arg-type]


def stir(blocks: Iterable[nn.Module]) -> None:
    """Move new blocks away from their initial values, as training does.

    Offsets become about a pixel where the features are about one. GroupNorm's means stop being zero, which is where the
    scale attention and the dynamic ReLU have their kinks: gradients there are decided by rounding.
    """
    generator = torch.Generator().manual_seed(1)

    def normal(tensor: Tensor, std: float) -> None:
        tensor.copy_(std * torch.randn(tensor.shape, generator=generator))

    with torch.no_grad():
        for block in blocks:
            own = dict(block.named_parameters(recurse=False))
            normal(own["offset_weight"], 1 / math.sqrt(TAPS * own["offset_weight"].shape[1]))
            normal(own["norm_bias"], 0.5)
            own["scale_bias"].fill_(1.0)
            own["relu_bias1"].fill_(1.0)


def block(setup: Setup, channels: int = CHANNELS) -> Case:
    """One block."""
    return _stack("block", setup, 1, channels)


def head(setup: Setup, channels: int = CHANNELS, blocks: int = BLOCKS) -> Case:
    """The six blocks of a head."""
    return _stack("head", setup, blocks, channels)


def _stack(op: str, setup: Setup, count: int, channels: int) -> Case:
    generator = torch.Generator().manual_seed(0)
    shapes = level_shapes(setup.height_px, setup.width_px)
    activations = {}
    for index, shape in enumerate(shapes):
        drawn = torch.randn(setup.batch, channels, *shape, generator=generator)
        activations[f"level{index}"] = drawn.to(setup.precision.dtype).float().to(setup.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        blocks = [DyHeadBlock(channels, channels, OFFSET_MODE) for _ in range(count)]
    stir(blocks)
    network = rounded(StackOfLevels(Stack(blocks)).to(setup.device), setup.precision)
    work = blocks_work(setup.batch, shapes, channels, count, setup.precision.dtype.itemsize)
    return Case(op, setup, network, activations, work)
