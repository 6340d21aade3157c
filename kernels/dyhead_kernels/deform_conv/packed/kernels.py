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
    PIECE_MEAN,
    PIECE_SQUARES,
    PIECE_WEIGHTED,
    SEGMENT_COLUMNS,
    STATISTICS_ROWS,
    STRIP_TILE_COLUMNS,
    STRIP_TILE_MAP,
    STRIP_TILE_MAPS,
    STRIP_TILE_PIECE,
    WEIGHT,
    WIDTH,
    column,
    first_row,
    strip_positions,
)
from ...launch.products import add_product
from .arguments import Sampling
from .corners import blended, corner_weights, corners_at, load_block, offset_places


@triton.jit
def _deform_conv_forward_kernel(
    output_ptr,
    statistics_ptr,
    weight_ptr,
    bias_ptr,
    mean_weights_ptr,
    places_ptr,
    piece_count,
    sampling: Sampling,
    CONV: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_STATISTICS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """Grid: (tiles, weight groups x blocks of output channels, images).

    With HAS_STATISTICS it also writes the `STATISTICS` of each piece and channel, (N, piece_count, 3, C_OUT) float32:
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
    group = tl.program_id(1) // OUT_BLOCKS
    image = tl.program_id(2).to(tl.int64)
    tile_ptr = sampling.tiles_ptr + tl.program_id(0) * STRIP_TILE_COLUMNS
    first_segment = column(tile_ptr, STRIP_TILE_MAP)
    weight = column(sampling.segments_ptr + first_segment * SEGMENT_COLUMNS, WEIGHT)  # of all maps of the tile
    segment, y, x, inside = strip_positions(places_ptr, tl.program_id(0), BLOCK_P)
    segment_ptr = sampling.segments_ptr + segment * SEGMENT_COLUMNS
    offset_at = offset_places(segment_ptr, y, x)
    first_output = tl.program_id(1) % OUT_BLOCKS * BLOCK_O
    output_exists = first_output + tl.arange(0, BLOCK_O) < GROUP_OUT
    first_output += group * GROUP_OUT
    output_channel = first_output + tl.arange(0, BLOCK_O)
    weight_type = weight_ptr.dtype.element_ty
    weight_ptr += (weight * C_OUT + first_output).to(tl.int64) * (TAPS * GROUP_IN)
    weight_row = tl.arange(0, BLOCK_O) * (TAPS * GROUP_IN)  # from the program's first: 32 bits, fewer registers
    values_ptr = sampling.values_ptr + image * sampling.values_image
    offset_ptr = sampling.offset_ptr + image * sampling.offset_image
    mask_ptr = sampling.mask_ptr + image * sampling.mask_image

    total = tl.zeros((BLOCK_P, BLOCK_O), tl.float32)
    for run in range(GROUP_IN // RUN):
        first_channel = group * GROUP_IN + run * RUN
        offset_part = first_channel // (C_IN // CONV.offset_groups)
        corners = corners_at(offset_at, offset_ptr, mask_ptr, segment_ptr, y, x, inside, 0, offset_part, CONV)
        bilinear = corner_weights(corners)
        ahead = load_block(values_ptr, corners, first_channel, 0, C_IN, RUN, BLOCK_C)
        columns = blended(bilinear, ahead).to(weight_type)
        if BLOCKS == 1 and TAPS > 1:
            corners = corners_at(offset_at, offset_ptr, mask_ptr, segment_ptr, y, x, inside, 1, offset_part, CONV)
            bilinear = corner_weights(corners)
        for step in range(STEPS):
            run_channel = step % BLOCKS * BLOCK_C + tl.arange(0, BLOCK_C)
            weights = tl.load(
                weight_ptr + (step // BLOCKS * GROUP_IN + run * RUN) + (weight_row[None, :] + run_channel[:, None]),
                mask=(run_channel < RUN)[:, None] & output_exists[None, :],
                other=0.0,
            )
            # The next step's, on their way while this one's are multiplied; the last step loads some for nobody.
            ahead = load_block(values_ptr, corners, first_channel, (step + 1) % BLOCKS, C_IN, RUN, BLOCK_C)
            total = add_product(total, columns, weights, PRECISION)
            columns = blended(bilinear, ahead).to(weight_type)
            # Here and not before they are needed, since a compiler may move a condition to the end of the loop.
            if (step + 2) % BLOCKS == 0 and step + 2 < STEPS:
                tap = (step + 2) // BLOCKS
                corners = corners_at(offset_at, offset_ptr, mask_ptr, segment_ptr, y, x, inside, tap, offset_part, CONV)
                bilinear = corner_weights(corners)

    tl.debug_barrier()  # positions are read once more, and not kept in registers that the loop needs
    segment, y, x, inside = strip_positions(places_ptr, tl.program_id(0), BLOCK_P)
    segment_ptr = sampling.segments_ptr + segment * SEGMENT_COLUMNS
    if HAS_BIAS:
        bias = tl.load(bias_ptr + output_channel, mask=output_exists, other=0.0).to(tl.float32)
        total += bias[None, :]
    row = first_row(segment_ptr, image, tl.num_programs(2)) + y * column(segment_ptr, WIDTH) + x
    tl.store(
        output_ptr + row[:, None] * C_OUT + output_channel[None, :],
        total.to(output_ptr.dtype.element_ty),
        mask=inside[:, None] & output_exists[None, :],
    )
    if HAS_STATISTICS:
        weight_y = tl.load(mean_weights_ptr + column(segment_ptr, MEAN_WEIGHT_Y) + y, mask=inside, other=0.0)
        weight_x = tl.load(mean_weights_ptr + column(segment_ptr, MEAN_WEIGHT_X) + x, mask=inside, other=0.0)
        mean_weight = weight_y * weight_x
        statistics_ptr += (image * piece_count + column(tile_ptr, STRIP_TILE_PIECE)) * (STATISTICS_ROWS * C_OUT)
        statistics_ptr += output_channel
        for piece in range(column(tile_ptr, STRIP_TILE_MAPS)):
            here = inside & (segment == first_segment + piece)
            exists = here.to(tl.float32)
            mean = tl.sum(total * exists[:, None], axis=0) / tl.sum(exists, axis=0)
            total = tl.where(here[:, None], total - mean[None, :], total)
            at = statistics_ptr + piece * (STATISTICS_ROWS * C_OUT)
            tl.store(at + PIECE_MEAN * C_OUT, mean, mask=output_exists)
            squares = tl.sum(total * total * exists[:, None], axis=0)
            tl.store(at + PIECE_SQUARES * C_OUT, squares, mask=output_exists)
            weighted = tl.sum(total * (mean_weight * exists)[:, None], axis=0)
            tl.store(at + PIECE_WEIGHTED * C_OUT, weighted, mask=output_exists)
