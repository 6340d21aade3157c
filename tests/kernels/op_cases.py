"""Modules and arguments that the custom ops are tried with."""

from __future__ import annotations

from typing import Any

import torch
from dyhead_kernels import BlockParameters, Pyramid, dyhead_block, modulated_deform_conv2d
from dyhead_kernels.dyhead_block.parameters import OFFSETS, OFFSETS_AND_MASKS, parameter_shapes
from torch import Tensor, nn

OPS = torch.ops.dyhead_kernels
SHAPES = ((7, 5), (4, 3), (2, 2))
CHANNELS = 8


class Block(nn.Module):
    """A block on a list of levels, with parameters of its own."""

    def __init__(self, bias: bool = True, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        for name, shape in parameter_shapes(CHANNELS, CHANNELS, 2).items():
            scale = 0.1 if name in ("offset_weight", "conv_weight") else 0.5
            value = None if name == "conv_bias" and not bias else nn.Parameter(torch.randn(shape, dtype=dtype) * scale)
            self.register_parameter(name, value)

    @property
    def block_parameters(self) -> BlockParameters:
        return BlockParameters(**self._parameters)  # type: ignore[arg-type]

    def forward(self, *levels: Tensor) -> list[Tensor]:
        pyramid = Pyramid.from_levels(levels)
        pyramid = dyhead_block(pyramid, self.block_parameters, offset_mode="resize", norm_groups=4, backend="torch")
        return dyhead_block(pyramid, self.block_parameters, offset_mode="flat", norm_groups=4, backend="torch").levels()


class Convolution(nn.Module):
    """A modulated deformable convolution that makes its own offsets and masks."""

    def __init__(self) -> None:
        super().__init__()
        self.offset_mask = nn.Conv2d(CHANNELS, OFFSETS_AND_MASKS, 3, stride=2, padding=1)
        self.weight = nn.Parameter(torch.randn(6, CHANNELS, 3, 3))
        self.bias = nn.Parameter(torch.randn(6))

    def forward(self, *levels: Tensor) -> list[Tensor]:
        outputs = []
        for level in levels:
            offset_mask = self.offset_mask(level)
            offset, mask = offset_mask[:, :OFFSETS], offset_mask[:, OFFSETS:].sigmoid()
            outputs.append(
                modulated_deform_conv2d(level, offset, self.weight, self.bias, 2, 1, 1, mask, backend="torch")
            )
        return outputs


def random_levels(batch: int = 2, shapes: tuple[tuple[int, int], ...] = SHAPES) -> list[Tensor]:
    return [torch.randn(batch, CHANNELS, *shape).requires_grad_() for shape in shapes]


def block_arguments(
    batch: int,
    dtype: torch.dtype,
    bias: bool = True,
    backend: str = "torch",
    shapes: tuple[tuple[int, int], ...] = SHAPES,
) -> tuple[Any, ...]:
    module = Block(bias)
    tensors = [
        None if p is None else p.detach().to(dtype).requires_grad_() for p in vars(module.block_parameters).values()
    ]
    values = Pyramid.from_levels(random_levels(batch, shapes)).values.detach().to(dtype).requires_grad_()
    return values, *tensors, [length for shape in shapes for length in shape], "resize", 4, backend


def conv_arguments(batch: int, dtype: torch.dtype, bias: bool = True, backend: str = "torch") -> tuple[Any, ...]:
    """Two offset groups, two weight groups, stride 2 on a map of (7, 5)."""
    tensors = (
        torch.randn(batch, CHANNELS, 7, 5),
        torch.randn(batch, 36, 4, 3),
        torch.randn(6, CHANNELS // 2, 3, 3),
        torch.randn(6) if bias else None,
        torch.rand(batch, 18, 4, 3) if bias else None,
    )
    return *(None if t is None else t.to(dtype).requires_grad_() for t in tensors), [2, 2], [1, 1], [1, 1], backend


def detached(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.detach() if isinstance(a, Tensor) else a for a in arguments)
