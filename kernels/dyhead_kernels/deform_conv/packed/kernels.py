"""Modulated deformable convolution of many maps in one launch, as an implicit matrix product.

    Y(p, o) = sum over taps k, channels c: W(o, k, c) * m_k(p) * x_c(p * stride - padding + k * dilation + offset_k(p))

with x bilinear. No column buffer exists: a program blends a block of columns in registers and multiplies it at once.
The map is channels last, so that a corner is one contiguous read. Steps go through taps and blocks of channels; corners
are loaded a step before they are blended, as plain loads that the first cache serves.

Channels of one weight group and one offset group form a run; DyHead has a single run of all channels. CONV is an
`arguments.Constants`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ...launch.columns import (
    MEAN_WEIGHT_X,
    MEAN_WEIGHT_Y,
    SEGMENT_COLUMNS,
    STATISTICS_ROWS,
    TILE_MEAN,
    TILE_SQUARES,
    TILE_WEIGHTED,
    WEIGHT,
    column,
    first_row,
    tile_positions,
)
from ...launch.products import add_product
from .arguments import Sampling
from .corners import blended, find_corners, load_block


@triton.jit
def _deform_conv_forward_kernel(
    output_ptr,
    statistics_ptr,
    weight_ptr,
    bias_ptr,
    mean_weights_ptr,
    sampling: Sampling,
    CONV: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_STATISTICS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr,
    TILE_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """Grid: (tiles, weight groups x blocks of output channels, images).

    With HAS_STATISTICS it also writes the `STATISTICS` of each tile and channel, (N, tiles, 3, C_OUT) float32:
    the moments of a segment are merged from them.
    """
    TAPS: tl.constexpr = CONV.taps
    C_IN: tl.constexpr = CONV.in_channels
    C_OUT: tl.constexpr = CONV.out_channels
    RUN: tl.constexpr = CONV.run
    GROUP_IN: tl.constexpr = CONV.group_in
    GROUP_OUT: tl.constexpr = CONV.group_out
    OUT_BLOCKS: tl.constexpr = (GROUP_OUT + BLOCK_O - 1) // BLOCK_O
    BLOCKS: tl.constexpr = (RUN + BLOCK_C - 1) // BLOCK_C
    STEPS: tl.constexpr = TAPS * BLOCKS
    tile = tl.program_id(0)
    group = tl.program_id(1) // OUT_BLOCKS
    image = tl.program_id(2).to(tl.int64)
    segment_ptr, y, x, position, inside = tile_positions(
        sampling.tiles_ptr, sampling.segments_ptr, tile, SEGMENT_COLUMNS, BLOCK_P, TILE_W
    )
    group_output = tl.program_id(1) % OUT_BLOCKS * BLOCK_O + tl.arange(0, BLOCK_O)
    output_exists = group_output < GROUP_OUT
    output_channel = group * GROUP_OUT + group_output
    weight_type = weight_ptr.dtype.element_ty
    weight_ptr += (column(segment_ptr, WEIGHT) * C_OUT + output_channel).to(tl.int64)[None, :] * (TAPS * GROUP_IN)
    values_ptr = sampling.values_ptr + image * sampling.values_image
    offset_ptr = sampling.offset_ptr + image * sampling.offset_image
    mask_ptr = sampling.mask_ptr + image * sampling.mask_image

    total = tl.zeros((BLOCK_P, BLOCK_O), tl.float32)
    for run in range(GROUP_IN // RUN):
        first_channel = group * GROUP_IN + run * RUN
        offset_group = first_channel // (C_IN // CONV.offset_groups)
        corners = find_corners(offset_ptr, mask_ptr, segment_ptr, y, x, inside, 0, offset_group, CONV)
        ahead = load_block(values_ptr, corners, first_channel, 0, C_IN, RUN, BLOCK_C)
        columns = blended(corners, ahead).to(weight_type)
        if BLOCKS == 1 and TAPS > 1:
            corners = find_corners(offset_ptr, mask_ptr, segment_ptr, y, x, inside, 1, offset_group, CONV)
        for step in range(STEPS):
            run_channel = step % BLOCKS * BLOCK_C + tl.arange(0, BLOCK_C)
            weights = tl.load(
                weight_ptr + step // BLOCKS * GROUP_IN + run * RUN + run_channel[:, None],
                mask=(run_channel < RUN)[:, None] & output_exists[None, :],
                other=0.0,
            )
            # The next step's, on their way while this one's are multiplied; the last step loads some for nobody.
            ahead = load_block(values_ptr, corners, first_channel, (step + 1) % BLOCKS, C_IN, RUN, BLOCK_C)
            total = add_product(total, columns, weights, PRECISION)
            columns = blended(corners, ahead).to(weight_type)
            # Here and not before they are needed, since a compiler may move a condition to the end of the loop.
            if (step + 2) % BLOCKS == 0 and step + 2 < STEPS:
                tap = (step + 2) // BLOCKS
                corners = find_corners(offset_ptr, mask_ptr, segment_ptr, y, x, inside, tap, offset_group, CONV)

    if HAS_BIAS:
        bias = tl.load(bias_ptr + output_channel, mask=output_exists, other=0.0).to(tl.float32)
        total += bias[None, :]
    row = first_row(segment_ptr, image, tl.num_programs(2)) + position
    tl.store(
        output_ptr + row[:, None] * C_OUT + output_channel[None, :],
        total.to(output_ptr.dtype.element_ty),
        mask=inside[:, None] & output_exists[None, :],
    )
    if HAS_STATISTICS:
        weight_y = tl.load(mean_weights_ptr + column(segment_ptr, MEAN_WEIGHT_Y) + y, mask=inside, other=0.0)
        weight_x = tl.load(mean_weights_ptr + column(segment_ptr, MEAN_WEIGHT_X) + x, mask=inside, other=0.0)
        exists = inside.to(tl.float32)
        mean = tl.sum(total * exists[:, None], axis=0) / tl.sum(exists, axis=0)
        deviation = (total - mean[None, :]) * exists[:, None]
        statistics_ptr += ((image * tl.num_programs(0) + tile) * STATISTICS_ROWS) * C_OUT + output_channel
        tl.store(statistics_ptr + TILE_MEAN * C_OUT, mean, mask=output_exists)
        squares = tl.sum(deviation * deviation, axis=0)
        tl.store(statistics_ptr + TILE_SQUARES * C_OUT, squares, mask=output_exists)
        weighted = tl.sum(deviation * (weight_y * weight_x)[:, None], axis=0)
        tl.store(statistics_ptr + TILE_WEIGHTED * C_OUT, weighted, mask=output_exists)
