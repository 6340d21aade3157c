"""The last pass of a block and its gradient, over all levels at once.

    m = A_high (U(Y_high) - M_high) + A_mid (Y_mid - M_mid) + A_low (Y_low - M_low) + D
    out = max(slope1 m + shift1, slope2 m + shift2)

with U the bilinear upsampling with aligned corners and M the mean of Y, so that maps far from zero lose no digits.
Coefficients and moments of an image and level are the rows of `attention/quantities.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from ...launch.columns import (
    COARSE_HEIGHT,
    COARSE_WIDTH,
    HEIGHT,
    LEVEL_COLUMNS,
    START,
    TILE_COLUMNS,
    TILE_MAP,
    WIDTH,
    aligned_step,
    column,
    if_any,
    tile_positions,
)
from ..attention.rows import (
    BRANCHES,
    COEFFICIENTS,
    GAIN,
    HIGH,
    LOW,
    MEAN,
    MEAN_CHANGE,
    MID,
    MOMENTS,
    SHIFT,
    SHIFT1,
    SHIFT2,
    SLOPE1,
    SLOPE2,
    VARIANCE,
)


class Block(NamedTuple):
    """Arguments that all kernels here share: maps and coefficients of all images, tables, sizes of the pyramid."""

    convolved_ptr: Any
    coefficients_ptr: Any
    moments_ptr: Any
    tiles_ptr: Any
    levels_ptr: Any
    packed_rows: Any
    coarse_rows: Any
    level_count: Any


class _Mixed(NamedTuple):
    """A tile of the mix: blocks are (P, channels), zero where there is no position.

    Attributes:
        mixed, line1, line2: m and the two lines of it.
        high, mid, low: U(Y_high), Y_mid and Y_low, each less its mean.
        row: packed rows of the positions, counted over all images; inside: whether they exist.
        coefficients_ptr: the coefficients of the tile's image and level.
    """

    mixed: Any
    line1: Any
    line2: Any
    high: Any
    mid: Any
    low: Any
    row: Any
    inside: Any
    coefficients_ptr: Any


@triton.jit
def _load(rows_ptr, row, exists, channel, C: tl.constexpr):
    at = rows_ptr + row.to(tl.int64)[:, None] * C + channel[None, :]
    return tl.load(at, mask=exists[:, None] & (channel < C)[None, :], other=0.0).to(tl.float32)


@triton.jit
def _upsampled(high_ptr, start, y, x, inside, height, width, fine_height, fine_width, channel, C: tl.constexpr):
    """U of the map (height, width) that begins at row `start`; zero if it has no size."""
    exists = if_any(inside, height)
    source_y = y.to(tl.float32) * aligned_step(height, fine_height)
    source_x = x.to(tl.float32) * aligned_step(width, fine_width)
    top, left = tl.floor(source_y), tl.floor(source_x)
    below, right = (source_y - top)[:, None], (source_x - left)[:, None]
    top, left = tl.minimum(top.to(tl.int32), height - 1), tl.minimum(left.to(tl.int32), width - 1)
    upper, lower = start + top * width, start + tl.minimum(top + 1, height - 1) * width
    far = tl.minimum(left + 1, width - 1)
    first = _load(high_ptr, upper + left, exists, channel, C) * (1 - right)
    first += _load(high_ptr, upper + far, exists, channel, C) * right
    second = _load(high_ptr, lower + left, exists, channel, C) * (1 - right)
    second += _load(high_ptr, lower + far, exists, channel, C) * right
    return first * (1 - below) + second * below


@triton.jit
def _branch_start(branch, image, packed_rows, coarse_rows):
    """First row of an image of high, mid or low in the buffer that holds all images of one after the other."""
    images = tl.num_programs(2).to(tl.int64)
    if branch == MID:
        start = images * coarse_rows + image * packed_rows
    elif branch == HIGH:
        start = image * coarse_rows
    else:
        start = images * (coarse_rows + packed_rows) + image * coarse_rows
    return start


@triton.jit
def _row(rows_ptr, row: tl.constexpr, channel, C: tl.constexpr):
    return tl.load(rows_ptr + row * C + channel, mask=channel < C, other=0.0)[None, :]


@triton.jit
def _mix(block: Block, channel, C: tl.constexpr, BLOCK_P: tl.constexpr, TILE_W: tl.constexpr):
    """The program's tile (axis 0) of its image (axis 2), as `_Mixed`."""
    image = tl.program_id(2).to(tl.int64)
    tile = tl.program_id(0)
    level_ptr, y, x, position, inside = tile_positions(
        block.tiles_ptr, block.levels_ptr, tile, LEVEL_COLUMNS, BLOCK_P, TILE_W
    )
    place = image * block.level_count + tl.load(block.tiles_ptr + tile * TILE_COLUMNS + TILE_MAP)
    coefficients_ptr = block.coefficients_ptr + place * (COEFFICIENTS * C)
    moments_ptr = block.moments_ptr + place * (BRANCHES * MOMENTS * C)
    height, width, start = column(level_ptr, HEIGHT), column(level_ptr, WIDTH), column(level_ptr, START)
    finest_area = column(block.levels_ptr, HEIGHT) * column(block.levels_ptr, WIDTH)
    high = _upsampled(
        block.convolved_ptr + _branch_start(HIGH, image, block.packed_rows, block.coarse_rows) * C,
        start + height * width - finest_area,
        y,
        x,
        inside,
        column(level_ptr, COARSE_HEIGHT),
        column(level_ptr, COARSE_WIDTH),
        height,
        width,
        channel,
        C,
    )
    high -= _row(moments_ptr, HIGH * MOMENTS + MEAN, channel, C)
    mid_ptr = block.convolved_ptr + _branch_start(MID, image, block.packed_rows, block.coarse_rows) * C
    mid = _load(mid_ptr, start + position, inside, channel, C) - _row(moments_ptr, MID * MOMENTS + MEAN, channel, C)
    low_ptr = block.convolved_ptr + _branch_start(LOW, image, block.packed_rows, block.coarse_rows) * C
    low = _load(low_ptr, start - finest_area + position, if_any(inside, start), channel, C)
    low -= _row(moments_ptr, LOW * MOMENTS + MEAN, channel, C)

    mixed = _row(coefficients_ptr, GAIN + MID, channel, C) * mid + _row(coefficients_ptr, SHIFT, channel, C)
    mixed += _row(coefficients_ptr, GAIN + LOW, channel, C) * low
    mixed += _row(coefficients_ptr, GAIN + HIGH, channel, C) * high
    line1 = _row(coefficients_ptr, SLOPE1, channel, C) * mixed
    line1 += _row(coefficients_ptr, SHIFT1, channel, C)
    line2 = _row(coefficients_ptr, SLOPE2, channel, C) * mixed
    line2 += _row(coefficients_ptr, SHIFT2, channel, C)
    row = image * block.packed_rows + start + position
    return _Mixed(mixed, line1, line2, high, mid, low, row, inside, coefficients_ptr)


@triton.jit
def _mix_forward_kernel(
    output_ptr,
    block: Block,
    C: tl.constexpr,
    BLOCK_P: tl.constexpr,
    TILE_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Grid: (tiles, blocks of channels, images)."""
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    tile = _mix(block, channel, C, BLOCK_P, TILE_W)
    tl.store(
        output_ptr + tile.row[:, None] * C + channel[None, :],
        tl.maximum(tile.line1, tile.line2, propagate_nan=tl.PropagateNan.ALL).to(output_ptr.dtype.element_ty),
        mask=tile.inside[:, None] & (channel < C)[None, :],
    )


@triton.jit
def _store_sum(sums_ptr, row: tl.constexpr, block, channel, C: tl.constexpr):
    tl.store(sums_ptr + row * C + channel, tl.sum(block, axis=0), mask=channel < C)


@triton.jit
def _mix_backward_kernel(
    grad_mixed_ptr,
    sums_ptr,
    grad_output_ptr,
    block: Block,
    C: tl.constexpr,
    BLOCK_P: tl.constexpr,
    TILE_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The gradient of m, and per tile the coefficients' gradients, (N, tiles, 8, C) float32.

    Grid: (tiles, blocks of channels, images).
    """
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    tile = _mix(block, channel, C, BLOCK_P, TILE_W)
    grad = _load(grad_output_ptr, tile.row, tile.inside, channel, C)
    grad1 = tl.where(tile.line1 >= tile.line2, grad, 0.0)
    grad2 = grad - grad1
    grad_mixed = _row(tile.coefficients_ptr, SLOPE1, channel, C) * grad1
    grad_mixed += _row(tile.coefficients_ptr, SLOPE2, channel, C) * grad2
    tl.store(
        grad_mixed_ptr + tile.row[:, None] * C + channel[None, :],
        grad_mixed.to(grad_mixed_ptr.dtype.element_ty),
        mask=tile.inside[:, None] & (channel < C)[None, :],
    )
    sums_ptr += (tl.program_id(2).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * (COEFFICIENTS * C)
    _store_sum(sums_ptr, GAIN + HIGH, grad_mixed * tile.high, channel, C)
    _store_sum(sums_ptr, GAIN + MID, grad_mixed * tile.mid, channel, C)
    _store_sum(sums_ptr, GAIN + LOW, grad_mixed * tile.low, channel, C)
    _store_sum(sums_ptr, SHIFT, grad_mixed, channel, C)
    _store_sum(sums_ptr, SLOPE1, grad1 * tile.mixed, channel, C)
    _store_sum(sums_ptr, SHIFT1, grad1, channel, C)
    _store_sum(sums_ptr, SLOPE2, grad2 * tile.mixed, channel, C)
    _store_sum(sums_ptr, SHIFT2, grad2, channel, C)


@triton.jit
def _upsampled_backward(
    grad_ptr, fine_ptr, y, x, inside, height, width, channel, C: tl.constexpr, WINDOW: tl.constexpr
):
    """U^T of the fine level's map at the coarse pixels (y, x), (P, channels), and their weights in the mean of U, (P,).

    A coarse pixel gathers from the fine ones less than a coarse pixel away, at most WINDOW lines and columns.
    """
    fine_height, fine_width = column(fine_ptr, HEIGHT), column(fine_ptr, WIDTH)
    step_y, step_x = aligned_step(height, fine_height), aligned_step(width, fine_width)
    # Where the step is zero every fine pixel falls on the only coarse one.
    first_y = tl.where(step_y > 0, tl.floor((y - 1) / tl.where(step_y > 0, step_y, 1.0)) + 1, 0.0).to(tl.int32)
    first_x = tl.where(step_x > 0, tl.floor((x - 1) / tl.where(step_x > 0, step_x, 1.0)) + 1, 0.0).to(tl.int32)
    grad = tl.zeros((y.shape[0], channel.shape[0]), tl.float32)
    total = tl.zeros((y.shape[0],), tl.float32)
    for i in range(WINDOW * WINDOW):
        fine_y, fine_x = first_y + i // WINDOW, first_x + i % WINDOW
        exists = (fine_y >= 0) & (fine_y < fine_height) & (fine_x >= 0) & (fine_x < fine_width)
        weight = tl.maximum(1 - tl.abs(fine_y * step_y - y), 0.0) * tl.maximum(1 - tl.abs(fine_x * step_x - x), 0.0)
        weight = tl.where(exists, weight, 0.0)
        total += weight
        row = column(fine_ptr, START) + fine_y * fine_width + fine_x
        grad += _load(grad_ptr, row, inside & (weight > 0), channel, C) * weight[:, None]
    return grad, total / (fine_height * fine_width)


@triton.jit
def _mix_branches_backward_kernel(
    grad_convolved_ptr,
    grad_mixed_ptr,
    grad_moments_ptr,
    block: Block,
    C: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK_P: tl.constexpr,
    TILE_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The whole gradient of every raw convolution: through the formula and through the means.

        dY = A dm + dmean / P + 2 (Y - mean) dvariance / P + (weight - 1 / P) dmean_change

    with U^T dm for the high branch. For mid and low, weights in the mean of U(Y) are 1 / P, so that the mean
    does not change. Grid: (tiles, blocks of channels x branches, images).
    """
    image = tl.program_id(2).to(tl.int64)
    tile = tl.program_id(0)
    branch, channel_block = tl.program_id(1) % BRANCHES, tl.program_id(1) // BRANCHES
    level_ptr, y, x, position, inside = tile_positions(
        block.tiles_ptr, block.levels_ptr, tile, LEVEL_COLUMNS, BLOCK_P, TILE_W
    )
    height, width, row = column(level_ptr, HEIGHT), column(level_ptr, WIDTH), column(level_ptr, START) + position
    level = tl.load(block.tiles_ptr + tile * TILE_COLUMNS + TILE_MAP)
    if branch == MID or level > 0:
        channel = channel_block * BLOCK_C + tl.arange(0, BLOCK_C)
        grad_mixed_ptr += image * block.packed_rows * C
        if branch == HIGH:
            grad, weight = _upsampled_backward(
                grad_mixed_ptr, level_ptr - LEVEL_COLUMNS, y, x, inside, height, width, channel, C, WINDOW
            )
        else:
            grad = _load(grad_mixed_ptr, row, inside, channel, C)
            weight = tl.full((BLOCK_P,), 1.0, tl.float32) / (height * width).to(tl.float32)
        if branch != MID:
            row -= column(block.levels_ptr, HEIGHT) * column(block.levels_ptr, WIDTH)
        first = _branch_start(branch, image, block.packed_rows, block.coarse_rows)
        rows = _load(block.convolved_ptr + first * C, row, inside, channel, C)

        # What a high branch computes on this level's grid contributes to the finer level.
        owner = image * block.level_count + (level - 1 if branch == HIGH else level)
        coefficients_ptr = block.coefficients_ptr + owner * (COEFFICIENTS * C) + branch * C
        at = (owner * BRANCHES + branch) * (MOMENTS * C)
        grad *= _row(coefficients_ptr, GAIN, channel, C)
        mean = _row(block.moments_ptr + at, MEAN, channel, C)
        grad_mean = _row(grad_moments_ptr + at, MEAN, channel, C)
        grad_variance = _row(grad_moments_ptr + at, VARIANCE, channel, C)
        area = (height * width).to(tl.float32)
        grad += (grad_mean + 2 * (rows - mean) * grad_variance) / area
        grad += (weight - 1 / area)[:, None] * _row(grad_moments_ptr + at, MEAN_CHANGE, channel, C)
        tl.store(
            grad_convolved_ptr + (first + row)[:, None] * C + channel[None, :],
            grad.to(grad_convolved_ptr.dtype.element_ty),
            mask=inside[:, None] & (channel < C)[None, :],
        )
