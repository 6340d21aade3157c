"""Gradients of maps as matrix products: what `kernels_backward.py` would add corner by corner, added up in windows.

A bilinear weight is a product of two hat functions, one of the line and one of the column. So over a window of the map
around a tile of outputs, the sum that each pixel r gets from all samples p is a product of matrices

    dX(r, c) = sum over taps k, positions p: hat_y(r_y, p) hat_x(r_x, p) m_k(p) G_k(p, c),    G_k = W_k^T dY,

held in registers until all taps are in it, and added to memory once. Corners outside the window are not in it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ...launch.columns import (
    SEGMENT_COLUMNS,
    SOURCE_HEIGHT,
    SOURCE_START,
    SOURCE_WIDTH,
    TILE_COLUMNS,
    TILE_X,
    TILE_Y,
    WEIGHT,
    column,
    first_row,
    tile_positions,
)
from ...launch.products import add_product
from .arguments import Gradients, Sampling
from .corners import find_corners
from .gradients import add_rows, load_grad_output, load_weights, window_start


@triton.jit
def _hat(pixel, low, low_weight, high_weight):
    """Weight of each pixel (W,) for each position (P,), (W, P): that of `low` (P,), of the next one, else 0."""
    step = pixel[:, None] - low[None, :]
    return tl.where(step == 0, low_weight[None, :], tl.where(step == 1, high_weight[None, :], 0.0))


@triton.jit
def _deform_conv_window_backward_kernel(
    grad_output_ptr,
    weight_ptr,
    sampling: Sampling,
    gradients: Gradients,
    CONV: tl.constexpr,
    WINDOWS: tl.constexpr,
    FIXED_POINT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr,
    TILE_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """Gradients of values (added to what is there) from the corners in `WINDOWS`.

    Grid: (tiles x runs x blocks of their channels, 1, images).
    """
    TAPS: tl.constexpr = CONV.taps
    C_IN: tl.constexpr = CONV.in_channels
    RUN: tl.constexpr = CONV.run
    RUN_BLOCKS: tl.constexpr = (RUN + BLOCK_C - 1) // BLOCK_C
    BLOCKS: tl.constexpr = C_IN // RUN * RUN_BLOCKS
    OUT_BLOCKS: tl.constexpr = (CONV.group_out + BLOCK_O - 1) // BLOCK_O
    WINDOW: tl.constexpr = WINDOWS.height * WINDOWS.width
    tile, block = tl.program_id(0) // BLOCKS, tl.program_id(0) % BLOCKS
    image = tl.program_id(2).to(tl.int64)
    run_start = block // RUN_BLOCKS * RUN
    run_channel = block % RUN_BLOCKS * BLOCK_C + tl.arange(0, BLOCK_C)
    channel, channel_exists = run_start + run_channel, run_channel < RUN
    group, offset_group = run_start // CONV.group_in, run_start // (C_IN // CONV.offset_groups)

    segment_ptr, y, x, position, inside = tile_positions(
        sampling.tiles_ptr, sampling.segments_ptr, tile, SEGMENT_COLUMNS, BLOCK_P, TILE_W
    )
    output_row = first_row(segment_ptr, image, tl.num_programs(2)) + position
    weight_ptr += column(segment_ptr, WEIGHT).to(tl.int64) * (CONV.out_channels * TAPS * CONV.group_in)
    weight_type = weight_ptr.dtype.element_ty
    first_line, first_column = window_start(
        segment_ptr,
        tl.load(sampling.tiles_ptr + tile * TILE_COLUMNS + TILE_Y),
        tl.load(sampling.tiles_ptr + tile * TILE_COLUMNS + TILE_X),
        CONV,
        WINDOWS,
    )

    if OUT_BLOCKS == 1:  # dY serves all taps
        grad_output = load_grad_output(grad_output_ptr, output_row, inside, group, 0, CONV, BLOCK_O)
    total = tl.zeros((WINDOW, BLOCK_C), tl.float32)
    for tap in range(TAPS):
        corners = find_corners(
            sampling.offset_ptr + image * sampling.offset_image,
            sampling.mask_ptr + image * sampling.mask_image,
            segment_ptr,
            y,
            x,
            inside,
            tap,
            offset_group,
            CONV,
        )
        # The transpose of G, (K, P): it has rows enough for the large matrix instructions where tiles are small.
        grad = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
        tap_weight_ptr = weight_ptr + tap * CONV.group_in
        if OUT_BLOCKS == 1:
            weights = load_weights(tap_weight_ptr, group, 0, channel, channel_exists, CONV, BLOCK_O)
            grad = add_product(grad, tl.trans(weights), tl.trans(grad_output), PRECISION)
        else:
            for output_block in range(OUT_BLOCKS):
                grad_output = load_grad_output(grad_output_ptr, output_row, inside, group, output_block, CONV, BLOCK_O)
                weights = load_weights(tap_weight_ptr, group, output_block, channel, channel_exists, CONV, BLOCK_O)
                grad = add_product(grad, tl.trans(weights), tl.trans(grad_output), PRECISION)

        # A corner that is not on the map has no weight, least of all a NaN.
        hat_y = _hat(
            tl.arange(0, WINDOWS.height),
            corners.line - first_line,
            tl.where(corners.top_left | corners.top_right, (1 - corners.below) * corners.modulation, 0.0),
            tl.where(corners.bottom_left | corners.bottom_right, corners.below * corners.modulation, 0.0),
        )
        hat_x = _hat(
            tl.arange(0, WINDOWS.width),
            corners.pixel - first_column,
            tl.where(corners.top_left | corners.bottom_left, 1 - corners.right, 0.0),
            tl.where(corners.top_right | corners.bottom_right, corners.right, 0.0),
        )
        hats = tl.reshape(hat_y[:, None, :] * hat_x[None, :, :], (WINDOW, BLOCK_P))
        total = add_product(total, hats.to(weight_type), tl.trans(grad).to(weight_type), PRECISION)

    pixel = tl.arange(0, WINDOW)
    line, pixel = first_line + pixel // WINDOWS.width, first_column + pixel % WINDOWS.width
    touched = tl.sum(tl.abs(total), axis=1) != 0
    touched &= (line < column(segment_ptr, SOURCE_HEIGHT)) & (pixel < column(segment_ptr, SOURCE_WIDTH))
    add_rows(
        gradients.values_ptr + image * sampling.values_image,
        column(segment_ptr, SOURCE_START) + line * column(segment_ptr, SOURCE_WIDTH) + pixel,
        touched,
        total,
        tl.load(gradients.scale_ptr) if FIXED_POINT else 1.0,
        channel,
        channel_exists,
        C_IN,
        FIXED_POINT,
    )
