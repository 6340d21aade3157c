"""Gradients of the convolution of `kernels.py`: of maps, of where they are sampled, of weights."""

from __future__ import annotations

import triton
import triton.language as tl

from ...launch.columns import (
    PART_COLUMNS,
    PART_FIRST_TILE,
    PART_HIGH,
    PART_LOW,
    PART_TILE_COUNT,
    SEGMENT_COLUMNS,
    WEIGHT,
    column,
    first_row,
    tile_positions,
)
from ...launch.products import add_product
from .arguments import Gradients, Sampling
from .corners import blend, find_corners, load_rows
from .gradients import (
    add_rows,
    bilinear_weights,
    corner_rows,
    each_corner,
    load_grad_output,
    load_weights,
    outside_windows,
    store_offset_gradients,
)


@triton.jit
def _deform_conv_backward_kernel(
    grad_output_ptr,
    weight_ptr,
    sampling: Sampling,
    gradients: Gradients,
    CONV: tl.constexpr,
    WINDOWS: tl.constexpr,
    NEEDS_VALUES: tl.constexpr,
    NEEDS_OFFSET: tl.constexpr,
    FIXED_POINT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr,
    TILE_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """Gradients of values (added to what is there), offsets and masks (written).

    Grid: (tiles x offset groups x taps, 1, images); the taps of a tile run side by side and share the cache.

    Values get nothing from the corners in `WINDOWS`, which are left to `kernels_window.py`.
    """
    TAPS: tl.constexpr = CONV.taps
    C_IN: tl.constexpr = CONV.in_channels
    C_OUT: tl.constexpr = CONV.out_channels
    RUN: tl.constexpr = CONV.run
    GROUP_IN: tl.constexpr = CONV.group_in
    GROUP_OUT: tl.constexpr = CONV.group_out
    OFFSET_RUN: tl.constexpr = C_IN // CONV.offset_groups
    OUT_BLOCKS: tl.constexpr = (GROUP_OUT + BLOCK_O - 1) // BLOCK_O
    RUN_BLOCKS: tl.constexpr = (RUN + BLOCK_C - 1) // BLOCK_C
    EVEN: tl.constexpr = RUN % BLOCK_C == 0
    tap = tl.program_id(0) % TAPS
    offset_group = tl.program_id(0) // TAPS % CONV.offset_groups
    tile = tl.program_id(0) // (TAPS * CONV.offset_groups)
    image = tl.program_id(2).to(tl.int64)
    segment_ptr, y, x, position, inside = tile_positions(
        sampling.tiles_ptr, sampling.segments_ptr, tile, SEGMENT_COLUMNS, BLOCK_P, TILE_W
    )
    output_row = first_row(segment_ptr, image, tl.num_programs(2)) + position
    weight_ptr += column(segment_ptr, WEIGHT).to(tl.int64) * (C_OUT * TAPS * GROUP_IN) + tap * GROUP_IN
    values_ptr = sampling.values_ptr + image * sampling.values_image
    grad_values_ptr = gradients.values_ptr + image * sampling.values_image
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
    scale = tl.load(gradients.scale_ptr) if FIXED_POINT else 1.0
    rows, shares = corner_rows(corners), bilinear_weights(corners) * corners.modulation[:, None]
    exist = each_corner(corners.top_left, corners.top_right, corners.bottom_left, corners.bottom_right)
    outside, any_outside, runs = exist, 1, OFFSET_RUN // RUN
    if WINDOWS.height > 0:
        top_left, top_right, bottom_left, bottom_right = outside_windows(corners, segment_ptr, y, x, CONV, WINDOWS)
        outside = each_corner(top_left, top_right, bottom_left, bottom_right)
        any_outside = tl.max((top_left | top_right | bottom_left | bottom_right).to(tl.int32), axis=0)
        if not NEEDS_OFFSET:
            runs *= any_outside

    sums = tl.zeros((BLOCK_P, 4), tl.float32)
    for run in range(runs):
        run_start = offset_group * OFFSET_RUN + run * RUN
        group = run_start // GROUP_IN
        if OUT_BLOCKS == 1:  # dY serves all channels
            grad_output = load_grad_output(grad_output_ptr, output_row, inside, group, 0, CONV, BLOCK_O)
        for block in range(RUN_BLOCKS):
            run_channel = block * BLOCK_C + tl.arange(0, BLOCK_C)
            channel, channel_exists = run_start + run_channel, run_channel < RUN
            grad = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
            if OUT_BLOCKS == 1:
                weights = load_weights(weight_ptr, group, 0, channel, channel_exists, CONV, BLOCK_O)
                grad = add_product(grad, grad_output, weights, PRECISION)
            else:
                for output_block in range(OUT_BLOCKS):
                    grad_output = load_grad_output(
                        grad_output_ptr, output_row, inside, group, output_block, CONV, BLOCK_O
                    )
                    weights = load_weights(weight_ptr, group, output_block, channel, channel_exists, CONV, BLOCK_O)
                    grad = add_product(grad, grad_output, weights, PRECISION)

            if NEEDS_OFFSET:
                values = load_rows(values_ptr, rows, exist, channel, channel_exists, C_IN, EVEN)
                sums += tl.sum(grad[:, None, :] * values, axis=2)
            if NEEDS_VALUES:  # noqa: SIM102  (the first condition is the compiler's)
                if any_outside > 0:
                    added = grad[:, None, :] * shares[:, :, None]
                    add_rows(grad_values_ptr, rows, outside, added, scale, channel, channel_exists, C_IN, FIXED_POINT)

    if NEEDS_OFFSET:
        store_offset_gradients(
            gradients,
            segment_ptr,
            image,
            (offset_group * TAPS + tap).to(tl.int64),
            position,
            inside,
            corners,
            sums,
            CONV.has_mask,
        )


@triton.jit
def _deform_conv_weight_backward_kernel(
    grad_weight_ptr,
    grad_output_ptr,
    parts_ptr,
    sampling: Sampling,
    images,
    CONV: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr,
    TILE_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """Sums of dY^T columns over parts of the tiles, (parts, C_OUT, TAPS, C_IN / GROUPS) float32.

    Grid: (parts, taps x runs x blocks of their channels, blocks of a group's output channels). The sums of the parts
    are added in a fixed order afterwards, so this gradient is the same in every run.
    """
    TAPS: tl.constexpr = CONV.taps
    C_IN: tl.constexpr = CONV.in_channels
    C_OUT: tl.constexpr = CONV.out_channels
    RUN: tl.constexpr = CONV.run
    GROUP_IN: tl.constexpr = CONV.group_in
    GROUP_OUT: tl.constexpr = CONV.group_out
    RUN_BLOCKS: tl.constexpr = (RUN + BLOCK_C - 1) // BLOCK_C
    EVEN: tl.constexpr = RUN % BLOCK_C == 0
    tap, block = tl.program_id(1) % TAPS, tl.program_id(1) // TAPS
    run_start = block // RUN_BLOCKS * RUN
    run_channel = block % RUN_BLOCKS * BLOCK_C + tl.arange(0, BLOCK_C)
    channel = run_start + run_channel
    channel_exists = run_channel < RUN
    group, offset_group = run_start // GROUP_IN, run_start // (C_IN // CONV.offset_groups)
    group_output = tl.program_id(2) * BLOCK_O + tl.arange(0, BLOCK_O)
    output_exists = group_output < GROUP_OUT
    output_channel = group * GROUP_OUT + group_output

    part_ptr = parts_ptr + tl.program_id(0) * PART_COLUMNS
    first_tile, tile_count = column(part_ptr, PART_FIRST_TILE), column(part_ptr, PART_TILE_COUNT)
    total = tl.zeros((BLOCK_O, BLOCK_C), tl.float32)
    for index in range(column(part_ptr, PART_LOW), column(part_ptr, PART_HIGH)):
        image = (index // tile_count).to(tl.int64)
        tile = first_tile + index % tile_count
        segment_ptr, y, x, position, inside = tile_positions(
            sampling.tiles_ptr, sampling.segments_ptr, tile, SEGMENT_COLUMNS, BLOCK_P, TILE_W
        )
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
        columns = blend(
            sampling.values_ptr + image * sampling.values_image,
            corners,
            channel,
            channel_exists,
            C_IN,
            EVEN,
        )
        output_row = first_row(segment_ptr, image, images) + position
        grad_output = tl.load(
            grad_output_ptr + output_row[:, None] * C_OUT + output_channel[None, :],
            mask=inside[:, None] & output_exists[None, :],
            other=0.0,
        )
        total = add_product(total, tl.trans(grad_output), columns.to(grad_output.dtype), PRECISION)

    at = (tl.program_id(0).to(tl.int64) * C_OUT + output_channel)[:, None] * TAPS + tap
    at = at * GROUP_IN + (channel - group * GROUP_IN)[None, :]
    tl.store(grad_weight_ptr + at, total, mask=output_exists[:, None] & channel_exists[None, :])
