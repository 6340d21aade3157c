"""Blocks to try: pyramids, random parameters, outputs and gradients; launch tables with other tiles."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dyhead_kernels import BlockParameters, Pyramid, dyhead_block
from dyhead_kernels.dyhead_block.parameters import parameter_shapes
from dyhead_kernels.launch import tuning
from torch import Tensor

from tests.kernels.tolerances import assert_near

MODES = ["flat", "crop", "resize"]
PYRAMIDS = {
    "one level": ((5, 4),),
    "one pixel": ((1, 1),),
    "two levels, odd": ((7, 5), (4, 3)),
    "three levels": ((13, 10), (7, 5), (4, 3)),
    "five levels": ((12, 18), (6, 9), (3, 5), (2, 3), (1, 2)),
    "five levels down to pixels": ((3, 2), (2, 1), (1, 1), (1, 1), (1, 1)),
    "a line": ((1, 9), (1, 5), (1, 3)),
}
THREE_LEVELS = PYRAMIDS["three levels"]

every_mode = pytest.mark.parametrize("mode", MODES)
every_pyramid = pytest.mark.parametrize("shapes", PYRAMIDS.values(), ids=PYRAMIDS)
Shapes = tuple[tuple[int, int], ...]


def random_parameters(
    in_channels: int = 8, channels: int = 12, dtype: torch.dtype = torch.float64, bias: bool = True
) -> BlockParameters:
    """Parameters whose every part matters: offsets of some pixels, attentions away from their clamps."""

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape) * scale).to(dtype).requires_grad_()

    scales = {
        "offset_weight": 1.0 / (3 * in_channels**0.5),
        "offset_bias": 0.5,
        "conv_weight": 1.0 / (3 * in_channels**0.5),
        "scale_weight": 0.3,
        "relu_weight1": 0.3,
        "relu_weight2": 0.3,
    }
    return BlockParameters(
        **{
            name: draw(*shape, scale=scales.get(name, 1.0)) if bias or name != "conv_bias" else None
            for name, shape in parameter_shapes(in_channels, channels, channels // 4).items()
        }
    )


def random_pyramid(shapes: Shapes, channels: int = 8, batch: int = 2, dtype: torch.dtype = torch.float64) -> Pyramid:
    positions = sum(height * width for height, width in shapes)
    return Pyramid(torch.randn(batch, positions, channels).to(dtype).requires_grad_(), shapes)


def in_float64(pyramid: Pyramid, parameters: BlockParameters) -> tuple[Pyramid, BlockParameters]:
    """The same values as float64 leaves of their own."""
    values, *tensors = (
        None if t is None else t.detach().double().requires_grad_()
        for t in (pyramid.values, *vars(parameters).values())
    )
    return Pyramid(values, pyramid.shapes), BlockParameters(*tensors)


def forward_and_gradients(
    pyramid: Pyramid, parameters: BlockParameters, function: Any = dyhead_block, **options: Any
) -> dict[str, Tensor]:
    """The output, and the gradients of the pyramid and of every parameter for a fixed gradient of the output."""
    output = function(pyramid, parameters, **options).values
    leaves = {"pyramid": pyramid.values, **{n: p for n, p in vars(parameters).items() if p is not None}}
    generator = torch.Generator().manual_seed(11)
    grad_output = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
    gradients = torch.autograd.grad(output, list(leaves.values()), grad_output, materialize_grads=True)
    return {"output": output.detach(), **dict(zip(leaves, gradients, strict=True))}


def assert_all_near(actual: dict[str, Tensor], expected: dict[str, Tensor], dtype: torch.dtype) -> None:
    for name, tensor in expected.items():
        assert_near(actual[name], tensor, dtype, "forward" if name == "output" else "block gradient", name)


def tiles(block_p: int, tile_w: int, **changes: int) -> tuning.Table:
    """The default table with other tiles."""
    default = tuning.load_table(tuning.DEFAULT)
    tiled = {kernel: kinds for kernel, kinds in default.items() if "BLOCK_P" in next(iter(kinds.values()))}
    return {
        kernel: {
            kind: {n: {"BLOCK_P": block_p, "TILE_W": tile_w, **changes}.get(n, v) for n, v in p.items()}
            for kind, p in kinds.items()
        }
        for kernel, kinds in tiled.items()
    }
