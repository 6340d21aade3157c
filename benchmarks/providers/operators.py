"""Ways of computing a deformable convolution and a stack of blocks; each raises `Unavailable` where it cannot run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType

import torch
import torch.nn.functional as F
from dyhead_kernels import BlockParameters, Pyramid, dyhead_block, modulated_deform_conv2d
from torch import Tensor

from ..cases.blocks import OFFSET_MODE
from ..cases.case import Operators
from ..work import NORM_GROUPS
from .steps import HIGH, LOW, MID, step_by_step

Call = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int], Tensor]
"""A deformable convolution with padding 1: input, offset, mask, weight, bias, stride."""


class Unavailable(Exception):
    """A provider cannot run here; the message is the reason."""


def kernels(backend: str) -> Operators:
    """dyhead_kernels' public operators; the levels are packed once, at the first block."""

    def deform_conv(
        input: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, stride: int = 1
    ) -> Tensor:
        return modulated_deform_conv2d(input, offset, weight, bias, stride, 1, mask=mask, backend=backend)

    def blocks(levels: Sequence[Tensor], parameters: Sequence[BlockParameters]) -> list[Tensor]:
        pyramid = Pyramid.from_levels(levels)
        for own in parameters:
            pyramid = dyhead_block(
                pyramid,
                own,
                offset_mode=OFFSET_MODE,
                norm_groups=NORM_GROUPS,
                backend=backend,
            )
        return pyramid.levels()

    return Operators(deform_conv, blocks)


def torchvision(dtype: torch.dtype, chain: torch.dtype) -> Operators:
    """torchvision's operator in `dtype`, amid a chain of steps in another."""
    operator = import_or_unavailable("torchvision.ops").deform_conv2d

    def call(input: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
        return operator(input, offset, weight, bias, stride=(stride, stride), padding=(1, 1), mask=mask)

    return _foreign(call, dtype, chain)


def deformops(chain: torch.dtype) -> Operators:
    """PyPI's deformops through its drop-in for torchvision's function: Triton on CUDA, plain PyTorch elsewhere."""
    module = import_or_unavailable("deformops.integrations.torchvision", "pip install deformops (Python 3.12+)")
    operator = module.deform_conv2d

    def call(input: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
        return operator(input, offset, weight, bias, stride=(stride, stride), padding=(1, 1), mask=mask)

    return _foreign(call, chain, chain)


def mmcv(dtype: torch.dtype, chain: torch.dtype) -> Operators:
    """mmcv's compiled operator in `dtype`."""
    operator = import_or_unavailable("mmcv.ops", "it needs the build with compiled operators").modulated_deform_conv2d

    def call(input: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
        return operator(input.contiguous(), offset.contiguous(), mask.contiguous(), weight, bias, stride, 1, 1, 1, 1)

    return _foreign(call, dtype, chain)


def dense() -> Operators:
    """Plain 3x3 convolutions of the same shapes and no other step: what a matrix product of this size costs.

    A level of a block gets its `mid` and `low` and the `high` that is computed on its grid, added up.
    """

    def deform_conv(
        input: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, stride: int = 1
    ) -> Tensor:
        return F.conv2d(input, weight, bias, stride, padding=1)

    def blocks(levels: Sequence[Tensor], parameters: Sequence[BlockParameters]) -> list[Tensor]:
        levels = list(levels)
        for own in parameters:
            outputs = []
            for index, level in enumerate(levels):
                maps = [F.conv2d(level, own.conv_weight[MID], padding=1)]
                if index > 0:
                    maps.append(F.conv2d(levels[index - 1], own.conv_weight[LOW], stride=2, padding=1))
                    maps.append(F.conv2d(level, own.conv_weight[HIGH], padding=1))
                outputs.append(sum(maps[1:], start=maps[0]))
            levels = outputs
        return levels

    return Operators(deform_conv, blocks)


def _foreign(call: Call, dtype: torch.dtype, chain: torch.dtype) -> Operators:
    """Another package's operator in a dtype that it knows, its result in the chain's, and the chain around it."""

    def deform_conv(
        input: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, stride: int = 1
    ) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            input, offset, mask, weight, bias = (t.to(dtype) for t in (input, offset, mask, weight, bias))
            return call(input, offset, mask, weight, bias, stride).to(chain)

    return Operators(deform_conv, step_by_step(deform_conv))


def import_or_unavailable(name: str, way_out: str = "") -> ModuleType:
    """A module of another package; `Unavailable` says that it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        missing = isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == package
        reason = f"{package} is not installed" if missing else f"{package} cannot be imported: {error}"
        raise Unavailable(f"{reason}: {way_out}" if way_out else reason) from None
