"""Launches of one DyHead block's own kernels: steering, coefficients, and the passes over the maps."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..launch.launching import (
    block_size,
    dot_precision,
    launch,
    parameters,
    parts_table,
    power_of_two,
)
from ..launch.tables import Tables
from .attention import kernels as coefficients
from .attention import tile_kernels as moments
from .mix import kernels as apply
from .offsets import kernels as steering
from .parameters import STEERING, BlockParameters
from .tables import BlockTables

MEMBERS = 4096  # elements of the matrix that says which channel is in which group
MATRIX_VALUES = 16384  # of a weight matrix that a program holds at a time: 64 for each thread of eight warps


def steer(plan: BlockTables, values: Tensor, parameters_: BlockParameters) -> Tensor:
    """(N, S, C_in) -> steering (N, size), float32, laid out as `BlockTables` says."""
    options, table = _options("steering_forward", plan, values)
    output = values.new_empty(len(values), plan.steering_size, dtype=torch.float32)
    launch(
        steering._steering_forward_kernel,
        (table.tile_count, len(values)),
        output,
        values,
        _taps_before_channels(parameters_.offset_weight),
        parameters_.offset_bias,
        table.tiles,
        table.maps,
        plan.packed_rows * values.shape[2],
        plan.steering_size,
        C_IN=values.shape[2],
        SPLIT=values.dtype != torch.float32,
        PRECISION=dot_precision(exact=True),
        **options,
    )
    if plan.offset_mode == "resize" and plan.coarse_rows:
        options, table = _options("steering_pointwise", plan, values)
        launch(
            steering._steering_resize_kernel,
            (table.tile_count - table.first_tile[1], len(values)),
            output,
            table.tiles,
            table.maps,
            plan.steering_size,
            table.first_tile[1],
            plan.packed_rows,
            **options,
        )
    return output


def steer_backward(plan: BlockTables, grad_branches: Tensor, steering_: Tensor) -> Tensor:
    """Gradients of the branches' own steering -> of the offset convolution, (N, 27 S) laid out like the steering."""
    options, table = _options("steering_pointwise", plan, steering_)
    grad = steering_.new_empty(len(steering_), STEERING * plan.packed_rows)
    launch(
        steering._steering_backward_kernel,
        (table.tile_count, len(steering_)),
        grad,
        grad_branches,
        steering_,
        table.tiles,
        table.maps,
        plan.packed_rows,
        plan.coarse_rows,
        plan.steering_size,
        MODE=plan.offset_mode,
        **options,
    )
    return grad


def steer_values_backward(plan: BlockTables, grad: Tensor, values: Tensor, weight: Tensor, added: Tensor) -> Tensor:
    """The offset convolution's gradient of the values plus `added` (N, S, C_in, float32), in the values' dtype."""
    options, table = _options("steering_values_backward", plan, values)
    channels = values.shape[2]
    total = torch.empty_like(values)
    launch(
        steering._steering_values_backward_kernel,
        (table.tile_count, -(-channels // options["BLOCK_C"]), len(values)),
        total,
        added,
        grad,
        _taps_before_channels(weight),
        table.tiles,
        table.maps,
        plan.packed_rows,
        C_IN=channels,
        PRECISION=dot_precision(exact=True),
        **options,
    )
    return total


def steer_weight_backward(plan: BlockTables, grad: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the offset convolution's weight (27, C_in, 3, 3) and bias (27,), float32."""
    options, table = _options("steering_weight_backward", plan, values)
    channels = values.shape[2]
    parts = parts_table(((0, table.tile_count),), len(values), values.device).table
    weights = grad.new_empty(len(parts), STEERING, 9, channels)
    biases = grad.new_empty(len(parts), STEERING)
    launch(
        steering._steering_weight_backward_kernel,
        (len(parts), 9 * -(-channels // options["BLOCK_C"])),
        weights,
        biases,
        grad,
        values,
        parts,
        table.tiles,
        table.maps,
        plan.packed_rows,
        C_IN=channels,
        PRECISION=dot_precision(exact=True),
        **options,
    )
    return weights.sum(dim=0).transpose(1, 2).unflatten(2, (3, 3)), biases.sum(dim=0)


class Coefficients(NamedTuple):
    """Of a block, float32: see `triton_kernels/coefficients.py`.

    Attributes:
        values: (N, L, 8, C).
        moments: (N, L, 3, 3, C), of high, mid and low, see `triton_kernels/apply.py`.
        hidden: (N, L, hidden units), the dynamic ReLU's.
    """

    values: Tensor
    moments: Tensor
    hidden: Tensor


def fold(plan: BlockTables, partial: Tensor, conv_tables: Tables, p: BlockParameters, groups: int) -> Coefficients:
    """Coefficients from the statistics of the tiles, (N, tiles, 3, C)."""
    images, levels, channels = len(partial), len(plan.layout.shapes), partial.shape[3]
    merged = partial.new_empty(images, levels, 3, 3, channels)
    options = parameters("merge_moments", partial)
    options["BLOCK_C"] = block_size(options["BLOCK_C"], channels)
    merges = plan.merges(conv_tables)
    launch(
        moments._merge_moments_kernel,
        (3 * levels, -(-channels // options["BLOCK_C"]), images),
        merged,
        partial,
        merges,
        conv_tables.tiles,
        plan.tile_shares(conv_tables),
        conv_tables.maps,
        conv_tables.tile_count,
        C=channels,
        TILE_H=conv_tables.tile_height,
        TILE_W=conv_tables.tile_width,
        **options,
    )
    values = partial.new_empty(images, levels, 8, channels)
    hidden = partial.new_empty(images, levels, len(p.relu_bias1))
    launch(
        coefficients._coefficients_forward_kernel,
        (levels, images),
        values,
        hidden,
        merged,
        merges,
        p.norm_weight,
        p.norm_bias,
        p.norm_bias if p.conv_bias is None else p.conv_bias,
        p.scale_weight,
        p.scale_bias,
        p.relu_weight1,
        p.relu_bias1,
        p.relu_weight2,
        p.relu_bias2,
        BLOCK_H=power_of_two(len(p.relu_bias1)),
        **_fold_constants(p, channels, groups),
        **_matrix_options("coefficients_forward", partial, channels, 4 * channels),
    )
    return Coefficients(values, merged, hidden)


def fold_backward(
    plan: BlockTables,
    partial: Tensor,
    level_tables: Tables,
    conv_tables: Tables,
    found: Coefficients,
    p: BlockParameters,
    groups: int,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Gradients of the coefficients, summed by tile (N, tiles, 8, C) -> of the moments, and of each parameter."""
    images, levels, channels = len(partial), len(plan.layout.shapes), partial.shape[3]
    hidden = found.hidden.shape[2]
    sums = partial.new_empty(images, levels, 8, channels)
    options = parameters("sum_tiles", partial)
    options["BLOCK_C"] = block_size(options["BLOCK_C"], 8 * channels)
    launch(
        moments._sum_tiles_kernel,
        (levels, -(-8 * channels // options["BLOCK_C"]), images),
        sums,
        partial,
        plan.first_tiles(level_tables),
        level_tables.tile_count,
        COLUMNS=8 * channels,
        **options,
    )
    grad_moments = torch.empty_like(found.moments)
    rows = sums.new_empty(images * levels, 14 * channels + hidden + 1)
    pooled = sums.new_empty(images * levels, channels)
    launch(
        coefficients._coefficients_backward_kernel,
        (levels, images),
        grad_moments,
        rows,
        pooled,
        sums,
        *found,
        plan.merges(conv_tables),
        p.norm_weight,
        p.norm_bias,
        p.norm_bias if p.conv_bias is None else p.conv_bias,
        p.scale_weight,
        p.scale_bias,
        p.relu_weight1,
        p.relu_weight2,
        **_fold_constants(p, channels, groups),
        **_matrix_options("coefficients_backward", sums, channels, hidden),
    )
    sizes = [3 * channels] * 3 + [channels, 4 * channels, hidden, 1]
    logits, units = rows.split(sizes, dim=1)[4:6]
    # Copies, since the results of an operator may not share memory.
    copies: tuple[Tensor, ...] = torch.split_with_sizes_copy(rows.sum(dim=0), sizes)  # type: ignore[func-returns-value,assignment]
    norm_weight, norm_bias, conv_bias, scale_weight, bias2, bias1, scale_bias = copies
    return grad_moments, {
        "norm_weight": norm_weight.view(3, channels),
        "norm_bias": norm_bias.view(3, channels),
        "conv_bias": conv_bias.view(3, channels),
        "scale_weight": scale_weight,
        "scale_bias": scale_bias,
        "relu_weight1": units.t() @ pooled,
        "relu_bias1": bias1,
        "relu_weight2": logits.t() @ found.hidden.flatten(0, 1),
        "relu_bias2": bias2,
    }


def mix(plan: BlockTables, convolved: Tensor, found: Coefficients, output: Tensor) -> None:
    """Upsample, add and activate: raw convolutions (rows, C) -> `output` (N, S, C)."""
    options, table = _options("apply_forward", plan, convolved)
    launch(
        apply._apply_forward_kernel,
        (table.tile_count, -(-output.shape[2] // options["BLOCK_C"]), len(output)),
        output,
        convolved,
        found.values,
        found.moments,
        table.tiles,
        table.maps,
        plan.packed_rows,
        plan.coarse_rows,
        len(plan.layout.shapes),
        C=output.shape[2],
        **options,
    )


def mix_backward(
    plan: BlockTables, grad_output: Tensor, convolved: Tensor, found: Coefficients
) -> tuple[Tensor, Tensor, Tables]:
    """The gradient of the mixed maps (N, S, C), those of the coefficients by tile (N, tiles, 8, C), and the tiles."""
    options, table = _options("apply_backward", plan, convolved)
    images, _, channels = grad_output.shape
    grad_mixed = torch.empty_like(grad_output)
    sums = grad_output.new_empty(images, table.tile_count, 8, channels, dtype=torch.float32)
    launch(
        apply._apply_backward_kernel,
        (table.tile_count, -(-channels // options["BLOCK_C"]), images),
        grad_mixed,
        sums,
        grad_output,
        convolved,
        found.values,
        found.moments,
        table.tiles,
        table.maps,
        plan.packed_rows,
        plan.coarse_rows,
        len(plan.layout.shapes),
        C=channels,
        **options,
    )
    return grad_mixed, sums, table


def convolved_backward(
    plan: BlockTables, grad_mixed: Tensor, convolved: Tensor, found: Coefficients, grad_moments: Tensor
) -> Tensor:
    """The gradient of the raw convolutions, (rows, C)."""
    options, table = _options("convolved_backward", plan, convolved)
    channels = grad_mixed.shape[2]
    grad_convolved = torch.empty_like(convolved)
    launch(
        apply._convolved_backward_kernel,
        (table.tile_count, 3 * -(-channels // options["BLOCK_C"]), len(grad_mixed)),
        grad_convolved,
        grad_mixed,
        convolved,
        found.values,
        found.moments,
        grad_moments,
        table.tiles,
        table.maps,
        plan.packed_rows,
        plan.coarse_rows,
        len(plan.layout.shapes),
        C=channels,
        WINDOW=plan.window,
        **options,
    )
    return grad_convolved


def _options(kernel: str, plan: BlockTables, like: Tensor) -> tuple[dict[str, int], Tables]:
    """Launch parameters, the block of channels no larger than needed, and the levels' tiles."""
    options = parameters(kernel, like)
    if "BLOCK_C" in options:
        options["BLOCK_C"] = block_size(options["BLOCK_C"], like.shape[-1])
    return options, plan.levels.tables(options["BLOCK_P"] // options["TILE_W"], options["TILE_W"], like.device)


def _fold_constants(p: BlockParameters, channels: int, groups: int) -> dict[str, Any]:
    block = power_of_two(channels)
    return {
        "C": channels,
        "HIDDEN": len(p.relu_bias1),
        "GROUPS": groups,
        "HAS_BIAS": p.conv_bias is not None,
        "BLOCK_C": block,
        "BLOCK_G": max(1, min(1 << (groups - 1).bit_length(), MEMBERS // block)),
    }


def _matrix_options(kernel: str, like: Tensor, channels: int, rows: int) -> dict[str, int]:
    """Launch parameters; rows of a weight matrix at a time no more than there are, and fewer where they are long."""
    options = parameters(kernel, like)
    fitting = max(1, MATRIX_VALUES // power_of_two(channels))
    options["MATRIX_ROWS"] = min(options["MATRIX_ROWS"], power_of_two(rows), fitting)
    return options


def _taps_before_channels(weight: Tensor) -> Tensor:
    """(27, C_in, 3, 3) -> (27, 9, C_in), contiguous."""
    return weight.permute(0, 2, 3, 1).flatten(1, 2).contiguous()
