"""Launches of the offset convolution's kernels, forward and backward."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ...launch.launching import dot_precision, launch, parts_table
from ..parameters import OFFSETS_AND_MASKS, TAPS, BlockParameters
from ..tables import BlockTables
from . import kernels

SPLIT_BLOCK = 256
"""Weights that a program splits."""


def forward(plan: BlockTables, values: Tensor, parameters: BlockParameters) -> Tensor:
    """(N, S, C_in) -> offsets and masks (N, size), float32, laid out as `BlockTables` says."""
    options, strips = plan.strip_options("offsets_forward", values)
    offset_mask = values.new_empty(len(values), plan.offset_mask_size, dtype=torch.float32)
    is_split = values.dtype != torch.float32
    weight = parameters.offset_weight
    launch(
        kernels._offsets_forward_kernel,
        (strips.tile_count, len(values)),
        offset_mask,
        values,
        _split(weight, values.dtype) if is_split else _taps_before_channels(weight),
        parameters.offset_bias,
        strips.places,
        strips.maps,
        plan.packed_rows * values.shape[2],
        plan.offset_mask_size,
        TAPS=TAPS,
        C_IN=values.shape[2],
        SPLIT=is_split,
        PRECISION=dot_precision(exact=True),
        **options,
    )
    if plan.offset_mode == "resize" and plan.coarse_rows:
        options, table = plan.launch_options("offsets_pointwise", values)
        launch(
            kernels._offsets_resize_kernel,
            (table.tile_count - table.first_tile[1], len(values)),
            offset_mask,
            table.tiles,
            table.maps,
            plan.offset_mask_size,
            table.first_tile[1],
            plan.packed_rows,
            **options,
        )
    return offset_mask


def backward(plan: BlockTables, grad_branches: Tensor, offset_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of each branch's offsets and masks -> of the offset convolution (N, 27 * S), laid out alike.

    With it its sums over each tile (N, tiles, 27): added up they are the bias's gradient.
    """
    options, table = plan.launch_options("offsets_pointwise", offset_mask)
    grad = offset_mask.new_empty(len(offset_mask), OFFSETS_AND_MASKS * plan.packed_rows)
    sums = offset_mask.new_empty(len(offset_mask), table.tile_count, OFFSETS_AND_MASKS)
    launch(
        kernels._offsets_backward_kernel,
        (table.tile_count, len(offset_mask)),
        grad,
        sums,
        grad_branches,
        offset_mask,
        table.tiles,
        table.maps,
        plan.packed_rows,
        plan.coarse_rows,
        plan.offset_mask_size,
        MODE=plan.offset_mode,
        **options,
    )
    return grad, sums


def values_backward(plan: BlockTables, grad: Tensor, values: Tensor, weight: Tensor, added: Tensor) -> Tensor:
    """The offset convolution's gradient of the values plus `added` (N, S, C_in, float32), in the values' dtype."""
    options, table = plan.launch_options("offsets_values_backward", values)
    channels = values.shape[2]
    total = torch.empty_like(values)
    launch(
        kernels._offsets_values_backward_kernel,
        (table.tile_count, -(-channels // options["BLOCK_C"]), len(values)),
        total,
        added,
        grad,
        _taps_before_channels(weight),
        table.tiles,
        table.maps,
        plan.packed_rows,
        C_IN=channels,
        SPLIT=values.dtype == torch.bfloat16,
        PRECISION=dot_precision(exact=True),
        **options,
    )
    return total


def weight_backward(plan: BlockTables, grad: Tensor, values: Tensor) -> Tensor:
    """The gradient of the offset convolution's weight (27, C_in, 3, 3), float32."""
    options, table = plan.launch_options("offsets_weight_backward", values)
    channels = values.shape[2]
    parts = parts_table(plan.cache, tuple(pairwise(table.first_tile)), len(values), options.pop("PARTS")).table
    weights = grad.new_empty(len(parts), OFFSETS_AND_MASKS, TAPS, channels)
    launch(
        kernels._offsets_weight_backward_kernel,
        (len(parts), -(-OFFSETS_AND_MASKS * TAPS // options["BLOCK_O"]), -(-channels // options["BLOCK_C"])),
        weights,
        grad,
        values,
        parts,
        table.tiles,
        table.maps,
        plan.packed_rows,
        C_IN=channels,
        SPLIT=values.dtype == torch.bfloat16,
        PRECISION=dot_precision(exact=True),
        **options,
    )
    return weights.sum(dim=0).transpose(1, 2).unflatten(2, (3, 3))


def _taps_before_channels(weight: Tensor) -> Tensor:
    """(27, C_in, 3, 3) -> (27, 9, C_in), contiguous."""
    return weight.permute(0, 2, 3, 1).flatten(1, 2).contiguous()


def _split(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """(27, C_in, 3, 3) -> (2, 27, 9, C_in), two numbers of `dtype` whose sum each weight is."""
    split = weight.new_empty(2, OFFSETS_AND_MASKS, TAPS, weight.shape[1], dtype=dtype)
    launch(
        kernels._offsets_split_kernel,
        (-(-weight.numel() // SPLIT_BLOCK),),
        split,
        weight.contiguous(),
        weight.numel(),
        C_IN=weight.shape[1],
        BLOCK=SPLIT_BLOCK,
    )
    return split
