"""Gradients of the convolution of `kernels.py`: of maps, of where they are sampled, of weights."""

from __future__ import annotations

import triton
import triton.language as tl

from ...launch.columns import (
    GRAD_MASK_START,
    GRAD_OFFSET_START,
    HEIGHT,
    PART_COLUMNS,
    PART_FIRST_TILE,
    PART_HIGH,
    PART_LOW,
    PART_TILE_COUNT,
    SEGMENT_COLUMNS,
    WEIGHT,
    WIDTH,
    column,
    first_row,
    tile_positions,
)
from ...launch.products import add_product
from .arguments import Gradients, Sampling
from .corners import blend, find_corners, load_rows


@triton.jit
def _add_rows(
    image_ptr, row, exists, rows, scale, channel, channel_exists, CHANNELS: tl.constexpr, FIXED_POINT: tl.constexpr
):
    """Add (P, K) to packed rows (P,); as multiples of 1 / scale in int64, which add up to the same in any order."""
    at = image_ptr + row.to(tl.int64)[:, None] * CHANNELS + channel[None, :]
    if FIXED_POINT:
        rows = (rows * scale).to(tl.int64)
    tl.atomic_add(at, rows, mask=exists[:, None] & channel_exists[None, :], sem="relaxed")


@triton.jit
def _deform_conv_backward_kernel(
    grad_output_ptr,
    weight_ptr,
    sampling: Sampling,
    gradients: Gradients,
    CONV: tl.constexpr,
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

    With G = W^T dY, the gradient of a column, and v_ij a corner's values, offsets and masks need but the four sums over
    channels s_ij = sum_c G v_ij: the derivative of sum_ij w_ij s_ij by the bilinear weights w.
    """
    TAPS: tl.constexpr = CONV.taps
    C_IN: tl.constexpr = CONV.in_channels
    C_OUT: tl.constexpr = CONV.out_channels
    RUN: tl.constexpr = CONV.run
    GROUP_IN: tl.constexpr = CONV.group_in
    GROUP_OUT: tl.constexpr = CONV.group_out
    OFFSET_RUN: tl.constexpr = C_IN // CONV.offset_groups
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
    row, next_line = corners.row, corners.next_line
    below, right = corners.below, corners.right
    above, left = 1 - below, 1 - right
    scale = tl.load(gradients.scale_ptr) if FIXED_POINT else 1.0

    sum_top_left = tl.zeros((BLOCK_P,), tl.float32)
    sum_top_right = tl.zeros((BLOCK_P,), tl.float32)
    sum_bottom_left = tl.zeros((BLOCK_P,), tl.float32)
    sum_bottom_right = tl.zeros((BLOCK_P,), tl.float32)
    for block in range(OFFSET_RUN // RUN * RUN_BLOCKS):
        run_start = offset_group * OFFSET_RUN + block // RUN_BLOCKS * RUN
        run_channel = block % RUN_BLOCKS * BLOCK_C + tl.arange(0, BLOCK_C)
        channel = run_start + run_channel
        channel_exists = run_channel < RUN
        group = run_start // GROUP_IN

        grad = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
        for output_block in range((GROUP_OUT + BLOCK_O - 1) // BLOCK_O):
            group_output = output_block * BLOCK_O + tl.arange(0, BLOCK_O)
            output_exists = group_output < GROUP_OUT
            output_channel = (group * GROUP_OUT + group_output).to(tl.int64)
            grad_output = tl.load(
                grad_output_ptr + output_row[:, None] * C_OUT + output_channel[None, :],
                mask=inside[:, None] & output_exists[None, :],
                other=0.0,
            )
            weights = tl.load(
                weight_ptr + output_channel[:, None] * (TAPS * GROUP_IN) + (channel - group * GROUP_IN)[None, :],
                mask=output_exists[:, None] & channel_exists[None, :],
                other=0.0,
            )
            grad = add_product(grad, grad_output, weights, PRECISION)

        if NEEDS_OFFSET:
            corner = load_rows(values_ptr, row, corners.top_left, channel, channel_exists, C_IN, EVEN)
            sum_top_left += tl.sum(grad * corner, axis=1)
            corner = load_rows(values_ptr, row + 1, corners.top_right, channel, channel_exists, C_IN, EVEN)
            sum_top_right += tl.sum(grad * corner, axis=1)
            corner = load_rows(values_ptr, row + next_line, corners.bottom_left, channel, channel_exists, C_IN, EVEN)
            sum_bottom_left += tl.sum(grad * corner, axis=1)
            corner = load_rows(
                values_ptr, row + next_line + 1, corners.bottom_right, channel, channel_exists, C_IN, EVEN
            )
            sum_bottom_right += tl.sum(grad * corner, axis=1)
        if NEEDS_VALUES:
            grad *= corners.modulation[:, None]
            rows = grad * (above * left)[:, None]
            _add_rows(grad_values_ptr, row, corners.top_left, rows, scale, channel, channel_exists, C_IN, FIXED_POINT)
            rows = grad * (above * right)[:, None]
            _add_rows(
                grad_values_ptr, row + 1, corners.top_right, rows, scale, channel, channel_exists, C_IN, FIXED_POINT
            )
            rows = grad * (below * left)[:, None]
            low = row + next_line
            _add_rows(
                grad_values_ptr, low, corners.bottom_left, rows, scale, channel, channel_exists, C_IN, FIXED_POINT
            )
            rows = grad * (below * right)[:, None]
            _add_rows(
                grad_values_ptr, low + 1, corners.bottom_right, rows, scale, channel, channel_exists, C_IN, FIXED_POINT
            )

    if NEEDS_OFFSET:
        grad_y = left * (sum_bottom_left - sum_top_left) + right * (sum_bottom_right - sum_top_right)
        grad_x = above * (sum_top_right - sum_top_left) + below * (sum_bottom_right - sum_bottom_left)
        channel_step = column(segment_ptr, HEIGHT) * column(segment_ptr, WIDTH)
        tap_channel = (offset_group * TAPS + tap).to(tl.int64)
        at = gradients.offset_ptr + image * gradients.offset_image + column(segment_ptr, GRAD_OFFSET_START)
        at += 2 * tap_channel * channel_step + position
        tl.store(at, grad_y * corners.modulation, mask=inside)
        tl.store(at + channel_step, grad_x * corners.modulation, mask=inside)
        if CONV.has_mask:
            grad_mask = above * (left * sum_top_left + right * sum_top_right)
            grad_mask += below * (left * sum_bottom_left + right * sum_bottom_right)
            at = gradients.mask_ptr + image * gradients.mask_image + column(segment_ptr, GRAD_MASK_START)
            tl.store(at + tap_channel * channel_step + position, grad_mask, mask=inside)


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
