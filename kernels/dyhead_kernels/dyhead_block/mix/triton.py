"""Launches of the mix's kernels: one pass over the maps forward, two backward."""

from __future__ import annotations

import torch
from torch import Tensor

from ...launch.launching import launch
from ...launch.tables import Tables
from ..attention.arguments import Attention
from ..attention.quantities import COEFFICIENT_ROWS
from ..layout import BRANCHES
from ..tables import BlockTables
from . import kernels


def forward(plan: BlockTables, convolved: Tensor, attention: Attention, output: Tensor) -> None:
    """Upsample, weigh, add and activate: raw convolutions (rows, C) -> `output` (N, S, C)."""
    options, table = plan.launch_options("mix_forward", convolved)
    launch(
        kernels._mix_forward_kernel,
        (table.tile_count, -(-output.shape[2] // options["BLOCK_C"]), len(output)),
        output,
        _block(plan, convolved, attention, table),
        C=output.shape[2],
        **options,
    )


def backward(
    plan: BlockTables, grad_output: Tensor, convolved: Tensor, attention: Attention
) -> tuple[Tensor, Tensor, Tables]:
    """The gradient of the mixed maps (N, S, C), those of the coefficients by tile (N, tiles, 8, C), and the tiles."""
    options, table = plan.launch_options("mix_backward", convolved)
    images, _, channels = grad_output.shape
    grad_mixed = torch.empty_like(grad_output)
    sums = grad_output.new_empty(images, table.tile_count, len(COEFFICIENT_ROWS), channels, dtype=torch.float32)
    launch(
        kernels._mix_backward_kernel,
        (table.tile_count, -(-channels // options["BLOCK_C"]), images),
        grad_mixed,
        sums,
        grad_output,
        _block(plan, convolved, attention, table),
        C=channels,
        **options,
    )
    return grad_mixed, sums, table


def branches_backward(
    plan: BlockTables, grad_mixed: Tensor, convolved: Tensor, attention: Attention, grad_moments: Tensor
) -> Tensor:
    """The whole gradient of the raw convolutions, (rows, C), through the formula and through the moments."""
    options, table = plan.launch_options("mix_branches_backward", convolved)
    channels = grad_mixed.shape[2]
    grad_convolved = torch.empty_like(convolved)
    launch(
        kernels._mix_branches_backward_kernel,
        (table.tile_count, len(BRANCHES) * -(-channels // options["BLOCK_C"]), len(grad_mixed)),
        grad_convolved,
        grad_mixed,
        grad_moments,
        _block(plan, convolved, attention, table),
        C=channels,
        WINDOW=plan.window,
        **options,
    )
    return grad_convolved


def _block(plan: BlockTables, convolved: Tensor, attention: Attention, table: Tables) -> kernels.Block:
    return kernels.Block(
        convolved_ptr=convolved,
        coefficients_ptr=attention.coefficients,
        moments_ptr=attention.moments,
        tiles_ptr=table.tiles,
        levels_ptr=table.maps,
        packed_rows=plan.packed_rows,
        coarse_rows=plan.coarse_rows,
        level_count=len(plan.layout.shapes),
    )
