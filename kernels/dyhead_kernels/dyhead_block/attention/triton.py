"""Launches of the attention's kernels: moments from the statistics of tiles, coefficients, and their gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...launch.launching import block_size, launch, parameters, power_of_two
from ...launch.tables import Strips, Tables
from ..layout import BRANCHES
from ..parameters import BlockParameters
from ..tables import BlockTables
from . import kernels, tile_kernels
from .arguments import Attention, ParameterPointers, Sizes
from .quantities import COEFFICIENT_ROWS, GRADIENT_ROWS

MEMBERS = 4096  # elements of the matrix that says which channel is in which group
MATRIX_VALUES = 16384  # of a weight matrix that a program holds at a time: 64 for each thread of eight warps


def forward(plan: BlockTables, partial: Tensor, strips: Strips, p: BlockParameters, norm_groups: int) -> Attention:
    """Moments and coefficients from the statistics of the convolutions' pieces, (N, pieces, 3, C)."""
    images, levels, channels = len(partial), len(plan.layout.shapes), partial.shape[3]
    found = Attention.empty(partial, levels, channels, len(p.relu_bias1))
    options = parameters("attention_moments", partial)
    options["BLOCK_C"] = block_size(options["BLOCK_C"], channels)
    merges = plan.merges(strips)
    launch(
        tile_kernels._attention_moments_kernel,
        (len(BRANCHES) * levels, -(-channels // options["BLOCK_C"]), images),
        found.moments,
        partial,
        merges,
        plan.pieces(strips),
        strips.piece_count,
        C=channels,
        **options,
    )
    matrix_options = _matrix_options("attention_forward", partial, channels, 4 * channels)
    launch(
        kernels._attention_forward_kernel,
        (levels, -(-4 * channels // matrix_options["MATRIX_ROWS"]), images),
        merges,
        found,
        ParameterPointers.of(p),
        **_constants(p, channels, norm_groups),
        **matrix_options,
    )
    return found


def backward(
    plan: BlockTables,
    partial: Tensor,
    level_tables: Tables,
    strips: Strips,
    found: Attention,
    p: BlockParameters,
    norm_groups: int,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Gradients of the coefficients, summed by tile (N, tiles, 8, C) -> of the moments, and of each parameter.

    As in the plain form, the gradient of a mean counts that the mix takes it from the map.
    """
    images, levels, channels = len(partial), len(plan.layout.shapes), partial.shape[3]
    hidden, rows_each = found.hidden.shape[2], len(COEFFICIENT_ROWS)
    sums = torch.empty_like(found.coefficients)
    options = parameters("attention_sums", partial)
    options["BLOCK_C"] = block_size(options["BLOCK_C"], rows_each * channels)
    launch(
        tile_kernels._attention_sums_kernel,
        (levels, -(-rows_each * channels // options["BLOCK_C"]), images),
        sums,
        partial,
        plan.first_tiles(level_tables),
        level_tables.tile_count,
        COLUMNS=rows_each * channels,
        **options,
    )
    sizes = [*(rows * channels for rows in GRADIENT_ROWS.values()), hidden, 1]
    grad_moments = torch.empty_like(found.moments)
    rows = sums.new_empty(images * levels, sum(sizes))
    pooled = sums.new_empty(images * levels, channels)
    launch(
        kernels._attention_backward_kernel,
        (levels, images),
        grad_moments,
        rows,
        pooled,
        sums,
        plan.merges(strips),
        found,
        ParameterPointers.of(p),
        **_constants(p, channels, norm_groups),
        **_matrix_options("attention_backward", sums, channels, hidden),
    )
    names = [*GRADIENT_ROWS, "relu_bias1", "scale_bias"]
    each = dict(zip(names, rows.split(sizes, dim=1), strict=True))
    # Copies, since the results of an operator may not share memory.
    copies: tuple[Tensor, ...] = torch.split_with_sizes_copy(rows.sum(dim=0), sizes)  # type: ignore[func-returns-value,assignment]
    total = dict(zip(names, copies, strict=True))
    for name in ("norm_weight", "norm_bias", "conv_bias"):
        total[name] = total[name].view(len(BRANCHES), channels)
    return grad_moments, {
        **total,
        "relu_weight1": each["relu_bias1"].t() @ pooled,
        "relu_weight2": each["relu_bias2"].t() @ found.hidden.flatten(0, 1),
    }


def _constants(p: BlockParameters, channels: int, norm_groups: int) -> dict[str, Any]:
    block = power_of_two(channels)
    return {
        "SIZES": Sizes(channels, len(p.relu_bias1), norm_groups, p.conv_bias is not None),
        "BLOCK_C": block,
        "BLOCK_G": max(1, min(1 << (norm_groups - 1).bit_length(), MEMBERS // block)),
    }


def _matrix_options(kernel: str, like: Tensor, channels: int, rows: int) -> dict[str, int]:
    """Launch parameters; rows of a weight matrix at a time no more than there are, and fewer where they are long."""
    options = parameters(kernel, like)
    fitting = max(1, MATRIX_VALUES // power_of_two(channels))
    options["MATRIX_ROWS"] = min(options["MATRIX_ROWS"], power_of_two(rows), fitting)
    return options
