"""The offset convolution of a block over all levels, its resized form for the `high` branch, and their gradients.

Offsets and masks of one image are a float32 buffer in which a level is (27, H, W): 18 offsets, then 9 masks, after the
sigmoid; levels follow each other, finest first. So every way of reading it, also `flat`, is a start and two strides.
Positions are sensitive to rounding: products of half-precision maps take the weights as a sum of two halves, and those
of bfloat16 maps their gradients too; in float16 a gradient may be too large, so that its products are float32's.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ...launch.columns import (
    COARSE_HEIGHT,
    COARSE_WIDTH,
    HEIGHT,
    LEVEL_COLUMNS,
    PART_COLUMNS,
    PART_FIRST_TILE,
    PART_HIGH,
    PART_LOW,
    PART_TILE_COUNT,
    START,
    TILE_COLUMNS,
    TILE_MAP,
    TILE_X,
    WIDTH,
    aligned_step,
    column,
    if_any,
    strip_positions,
    tile_positions,
)
from ...launch.products import add_product
from .. import parameters

TAPS = tl.constexpr(parameters.TAPS)
OFFSETS = tl.constexpr(parameters.OFFSETS)
CHANNELS = tl.constexpr(parameters.OFFSETS_AND_MASKS)
PADDED = tl.constexpr(32)


@triton.jit
def _offsets_forward_kernel(
    offset_mask_ptr,
    values_ptr,
    weight_ptr,
    bias_ptr,
    places_ptr,
    levels_ptr,
    values_image,
    offset_mask_image,
    TAPS: tl.constexpr,
    C_IN: tl.constexpr,
    SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """3x3 convolution to 27 channels, sigmoid of the last 9. Grid: (tiles of strips, images).

    Weight (27, 9, C_IN); SPLIT: (2, 27, 9, C_IN), rounded, and what rounding left. Steps go through the taps of a block
    of channels, then the next block's, so that taps find each other's rows in the first cache.
    """
    COLUMNS: tl.constexpr = 2 * PADDED if SPLIT else PADDED
    STEPS: tl.constexpr = (C_IN + BLOCK_C - 1) // BLOCK_C * TAPS
    image = tl.program_id(1).to(tl.int64)
    level, y, x, inside = strip_positions(places_ptr, tl.program_id(0), BLOCK_P)
    level_ptr = levels_ptr + level * LEVEL_COLUMNS
    height, width = column(level_ptr, HEIGHT), column(level_ptr, WIDTH)
    row = column(level_ptr, START) + y * width + x
    seen = tl.zeros((BLOCK_P,), tl.int32)  # a bit of each tap: whether it is on the map
    for tap in tl.static_range(TAPS):
        source_y, source_x = y + tap // 3 - 1, x + tap % 3 - 1
        exists = (source_y >= 0) & (source_y < height) & (source_x >= 0) & (source_x < width) & inside
        seen |= exists.to(tl.int32) << tap
    values_ptr += image * values_image
    output = tl.arange(0, COLUMNS)
    weight_row = (output // PADDED * CHANNELS + output % PADDED) * (TAPS * C_IN)

    total = tl.zeros((BLOCK_P, COLUMNS), tl.float32)
    rows = _load_tap(values_ptr, 0, 0, row, width, seen, C_IN, BLOCK_C)
    for step in range(STEPS):
        channel = step // TAPS * BLOCK_C + tl.arange(0, BLOCK_C)
        weights = tl.load(
            weight_ptr + step % TAPS * C_IN + (weight_row[None, :] + channel[:, None]),
            mask=(output % PADDED < CHANNELS)[None, :] & (channel < C_IN)[:, None],
            other=0.0,
        )
        # The next step's, on their way while this one's are multiplied; after the last step none.
        ahead = _load_tap(values_ptr, (step + 1) % TAPS, (step + 1) // TAPS, row, width, seen, C_IN, BLOCK_C)
        total = add_product(total, rows, weights, PRECISION)
        rows = ahead
    if SPLIT:
        total = tl.sum(tl.reshape(total, (BLOCK_P, 2, PADDED)), axis=1)

    tl.debug_barrier()  # positions are read once more, and not kept in registers that the loop needs
    level, y, x, inside = strip_positions(places_ptr, tl.program_id(0), BLOCK_P)
    level_ptr = levels_ptr + level * LEVEL_COLUMNS
    height, width, start = column(level_ptr, HEIGHT), column(level_ptr, WIDTH), column(level_ptr, START)
    channel_out = tl.arange(0, PADDED)
    exists = channel_out < CHANNELS
    total += tl.load(bias_ptr + channel_out, mask=exists, other=0.0).to(tl.float32)[None, :]
    total = tl.where((channel_out < OFFSETS)[None, :], total, tl.sigmoid(total))
    at = offset_mask_ptr + image * offset_mask_image + (start * CHANNELS + y * width + x)[:, None]
    at += channel_out[None, :] * (height * width)[:, None]
    tl.store(at, total, mask=inside[:, None] & exists[None, :])


@triton.jit
def _load_tap(values_ptr, tap, block, row, width, seen, C_IN: tl.constexpr, BLOCK_C: tl.constexpr):
    """Rows (P, BLOCK_C) that a tap reads of a block of channels; zero beyond the level and the channels."""
    exists = (seen >> tap) & 1 != 0
    source = (row + (tap // 3 - 1) * width + tap % 3 - 1).to(tl.int64)
    channel = block * BLOCK_C + tl.arange(0, BLOCK_C)
    at = values_ptr + source[:, None] * C_IN + channel[None, :]
    return tl.load(at, mask=exists[:, None] & (channel < C_IN)[None, :], other=0.0)


@triton.jit
def _two_parts(numbers, DTYPE: tl.constexpr):
    """Float32 numbers as sums of two of a smaller dtype: rounded, and what rounding left."""
    rounded = numbers.to(DTYPE)
    return rounded, (numbers - rounded.to(tl.float32)).to(DTYPE)


@triton.jit
def _offsets_split_kernel(split_ptr, weight_ptr, count, C_IN: tl.constexpr, BLOCK: tl.constexpr):
    """Weight (27, C_IN, 9) -> (2, 27, 9, C_IN), each a sum of two numbers of the dtype of `split_ptr`.

    `count`: elements of the weight. Grid: (blocks of them,).
    """
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # where it goes
    exists = at < count
    row, channel = at // C_IN, at % C_IN
    weight = tl.load(weight_ptr + row // TAPS * (C_IN * TAPS) + channel * TAPS + row % TAPS, mask=exists, other=0.0)
    weight = weight.to(tl.float32)
    rounded, rest = _two_parts(weight, split_ptr.dtype.element_ty)
    tl.store(split_ptr + at, rounded, mask=exists)
    tl.store(split_ptr + count + at, rest, mask=exists)


@triton.jit
def _offsets_resize_kernel(
    offset_mask_ptr,
    tiles_ptr,
    levels_ptr,
    offset_mask_image,
    first_tile,
    packed_rows,
    BLOCK_P: tl.constexpr,
    TILE_W: tl.constexpr,
):
    """Offsets and masks of each level but the last on the grid of the coarser one, bilinear with aligned corners.

    Offsets are divided by the ratio of the sizes. Written behind the `packed_rows` positions of the levels themselves.
    Grid: (tiles of the levels but the finest, images).
    """
    tile = first_tile + tl.program_id(0)
    level_ptr, y, x, position, inside = tile_positions(tiles_ptr, levels_ptr, tile, LEVEL_COLUMNS, BLOCK_P, TILE_W)
    fine_ptr = level_ptr - LEVEL_COLUMNS
    height, width, start = column(level_ptr, HEIGHT), column(level_ptr, WIDTH), column(level_ptr, START)
    fine_height, fine_width = column(fine_ptr, HEIGHT), column(fine_ptr, WIDTH)
    offset_mask_ptr += tl.program_id(1).to(tl.int64) * offset_mask_image
    channel = tl.arange(0, PADDED)
    exists = inside[:, None] & (channel < CHANNELS)[None, :]

    source_y = y.to(tl.float32) * aligned_step(fine_height, height)
    source_x = x.to(tl.float32) * aligned_step(fine_width, width)
    top, left = tl.floor(source_y), tl.floor(source_x)
    below, right = (source_y - top)[:, None], (source_x - left)[:, None]
    top, left = tl.minimum(top.to(tl.int32), fine_height - 1), tl.minimum(left.to(tl.int32), fine_width - 1)
    bottom, far = tl.minimum(top + 1, fine_height - 1) * fine_width, tl.minimum(left + 1, fine_width - 1)
    top *= fine_width
    at = offset_mask_ptr + column(fine_ptr, START) * CHANNELS + (channel * fine_height * fine_width)[None, :]
    upper = tl.load(at + (top + left)[:, None], mask=exists, other=0.0) * (1 - right)
    upper += tl.load(at + (top + far)[:, None], mask=exists, other=0.0) * right
    lower = tl.load(at + (bottom + left)[:, None], mask=exists, other=0.0) * (1 - right)
    lower += tl.load(at + (bottom + far)[:, None], mask=exists, other=0.0) * right

    resized = (upper * (1 - below) + lower * below) * _per_pixel(channel, height, width, fine_height, fine_width)
    coarse_start = start - column(levels_ptr, HEIGHT) * column(levels_ptr, WIDTH)
    at = offset_mask_ptr + (packed_rows + coarse_start) * CHANNELS
    tl.store(at + (channel * height * width)[None, :] + position[:, None], resized, mask=exists)


@triton.jit
def _per_pixel(channel, height, width, fine_height, fine_width):
    """Factors that turn offsets in fine pixels into coarse ones, (1, channels): 1 for masks."""
    scale_y, scale_x = height.to(tl.float32) / fine_height, width.to(tl.float32) / fine_width
    return tl.where(channel < OFFSETS, tl.where(channel % 2 == 0, scale_y, scale_x), 1.0)[None, :]


@triton.jit
def _offsets_backward_kernel(
    grad_ptr,
    sums_ptr,
    branch_ptr,
    offset_mask_ptr,
    tiles_ptr,
    levels_ptr,
    packed_rows,
    coarse_rows,
    offset_mask_image,
    MODE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    TILE_W: tl.constexpr,
):
    """The gradient before the sigmoid, laid out like the offsets, from those of each branch's own offsets and masks.

    Of each image `branch_ptr` holds high, mid and low one after the other. Sums over each tile: (images, tiles, 27).
    Grid: (tiles, images).
    """
    image = tl.program_id(1).to(tl.int64)
    level_ptr, y, x, position, inside = tile_positions(
        tiles_ptr, levels_ptr, tl.program_id(0), LEVEL_COLUMNS, BLOCK_P, TILE_W
    )
    height, width, start = column(level_ptr, HEIGHT), column(level_ptr, WIDTH), column(level_ptr, START)
    coarse_height, coarse_width = column(level_ptr, COARSE_HEIGHT), column(level_ptr, COARSE_WIDTH)
    coarse_area = coarse_height * coarse_width
    area = height * width
    finest_area = column(levels_ptr, HEIGHT) * column(levels_ptr, WIDTH)
    channel = tl.arange(0, PADDED)
    exists = inside[:, None] & (channel < CHANNELS)[None, :]
    in_level = (channel * area)[None, :] + position[:, None]

    high_ptr = branch_ptr + image * ((packed_rows + 2 * coarse_rows) * CHANNELS)
    mid_ptr = high_ptr + coarse_rows * CHANNELS
    low_ptr = mid_ptr + packed_rows * CHANNELS
    grad = tl.load(mid_ptr + start * CHANNELS + in_level, mask=exists, other=0.0)
    at = low_ptr + (start - finest_area) * CHANNELS + in_level
    grad += tl.load(at, mask=if_any(exists, start), other=0.0)

    high_ptr += (start + area - finest_area) * CHANNELS  # of the level coarser than this one
    exists_high = if_any(exists, coarse_height)
    if MODE == "flat":
        first = tl.where(channel < OFFSETS, 0, OFFSETS)  # offsets and masks are buffers of their own
        flat = in_level - (first * area)[None, :]
        count = tl.where(channel < OFFSETS, OFFSETS, CHANNELS - OFFSETS) * coarse_area
        at = high_ptr + (first * coarse_area)[None, :] + flat
        grad += tl.load(at, mask=exists_high & (flat < count[None, :]), other=0.0)
    elif MODE == "crop":
        shown = (y < coarse_height) & (x < coarse_width)
        at = high_ptr + (channel * coarse_area)[None, :] + (y * coarse_width + x)[:, None]
        grad += tl.load(at, mask=exists_high & shown[:, None], other=0.0)
    else:
        # A coarse pixel reads the fine pixels less than one away from it, so at most three of them read a fine one.
        per_pixel = _per_pixel(channel, coarse_height, coarse_width, height, width)
        ratio_y, ratio_x = aligned_step(height, coarse_height), aligned_step(width, coarse_width)
        near_y = tl.floor(y / tl.maximum(ratio_y, 1.0) + 0.5).to(tl.int32)
        near_x = tl.floor(x / tl.maximum(ratio_x, 1.0) + 0.5).to(tl.int32)
        for i in range(9):
            coarse_y, coarse_x = near_y + i // 3 - 1, near_x + i % 3 - 1
            weight = tl.maximum(1 - tl.abs(coarse_y * ratio_y - y), 0.0)
            weight *= tl.maximum(1 - tl.abs(coarse_x * ratio_x - x), 0.0)
            shown = (coarse_y >= 0) & (coarse_y < coarse_height) & (coarse_x >= 0) & (coarse_x < coarse_width)
            at = high_ptr + (channel * coarse_area)[None, :] + (coarse_y * coarse_width + coarse_x)[:, None]
            high = tl.load(at, mask=exists_high & (shown & (weight > 0))[:, None], other=0.0)
            grad += high * per_pixel * weight[:, None]

    at = offset_mask_ptr + image * offset_mask_image + start * CHANNELS + in_level
    mask = tl.load(at, mask=exists & (channel >= OFFSETS)[None, :], other=0.0)
    grad = tl.where((channel < OFFSETS)[None, :], grad, grad * mask * (1 - mask))
    tl.store(grad_ptr + image * (packed_rows * CHANNELS) + start * CHANNELS + in_level, grad, mask=exists)
    sums_ptr += (image * tl.num_programs(0) + tl.program_id(0)) * CHANNELS
    tl.store(sums_ptr + channel, tl.sum(grad, axis=0), mask=channel < CHANNELS)


@triton.jit
def _load_read_by(grad_ptr, image, packed_rows, level_ptr, position, pair):
    """(P, pairs) of an image's gradient of the offset convolution: of each output and tap that reads a position.

    Pairs count taps of the first output, then of the second; those past the last are 0, as where no output reads.
    """
    height, width = column(level_ptr, HEIGHT), column(level_ptr, WIDTH)
    channel_out, tap = pair // TAPS, pair % TAPS
    y, x = position // width, position % width
    lines = tl.where(y + 1 < height, 0b000000111, 0) | 0b000111000 | tl.where(y > 0, 0b111000000, 0)
    columns = tl.where(x + 1 < width, 0b001001001, 0) | 0b010010010 | tl.where(x > 0, 0b100100100, 0)
    taps = tl.where(y < height, lines & columns, 0)  # a bit for each tap
    wanted = tl.where(channel_out < CHANNELS, 1 << tap, 0)
    shift = channel_out * (height * width) - (tap // 3 - 1) * width - (tap % 3 - 1)
    start = image.to(tl.int64) * packed_rows + column(level_ptr, START)
    at = grad_ptr + start * CHANNELS + (position[:, None] + shift[None, :])
    return tl.load(at, mask=(taps[:, None] & wanted[None, :]) != 0, other=0.0)


@triton.jit
def _offsets_values_backward_kernel(
    grad_values_ptr,
    added_ptr,
    grad_ptr,
    weight_ptr,
    tiles_ptr,
    levels_ptr,
    packed_rows,
    C_IN: tl.constexpr,
    SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Add `added_ptr` to the offset convolution's gradient of the values, float32. Weight (27, 9, C_IN).

    Grid: (runs, blocks of channels, images).
    """
    image = tl.program_id(2)
    level_ptr = levels_ptr + tl.load(tiles_ptr + tl.program_id(0) * TILE_COLUMNS + TILE_MAP) * LEVEL_COLUMNS
    position = tl.load(tiles_ptr + tl.program_id(0) * TILE_COLUMNS + TILE_X) + tl.arange(0, BLOCK_P)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    exists = channel < C_IN
    total = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    for first in range(0, CHANNELS * TAPS, BLOCK_O):
        pair = first + tl.arange(0, BLOCK_O)
        grad = _load_read_by(grad_ptr, image, packed_rows, level_ptr, position, pair)
        weights = tl.load(
            weight_ptr + pair[:, None] * C_IN + channel[None, :],
            mask=(pair < CHANNELS * TAPS)[:, None] & exists[None, :],
            other=0.0,
        ).to(tl.float32)
        if SPLIT:
            high, low = _two_parts(grad, tl.bfloat16)
            high_weights, low_weights = _two_parts(weights, tl.bfloat16)
            total = add_product(total, tl.trans(high_weights), tl.trans(high), PRECISION)
            total = add_product(total, tl.trans(low_weights), tl.trans(high), PRECISION)
            total = add_product(total, tl.trans(high_weights), tl.trans(low), PRECISION)
        else:
            total = add_product(total, tl.trans(weights), tl.trans(grad), PRECISION)
    row = image.to(tl.int64) * packed_rows + column(level_ptr, START) + position
    at = row[:, None] * C_IN + channel[None, :]
    here = (position < column(level_ptr, HEIGHT) * column(level_ptr, WIDTH))[:, None] & exists[None, :]
    total = tl.trans(total) + tl.load(added_ptr + at, mask=here, other=0.0)
    tl.store(grad_values_ptr + at, total.to(grad_values_ptr.dtype.element_ty), mask=here)


@triton.jit
def _offsets_weight_backward_kernel(
    grad_weight_ptr,
    grad_ptr,
    values_ptr,
    parts_ptr,
    tiles_ptr,
    levels_ptr,
    packed_rows,
    C_IN: tl.constexpr,
    SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Sums over parts of the runs: (parts, 27, 9, C_IN) float32.

    Grid: (parts, blocks of outputs and taps, blocks of channels).
    """
    pair = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    channel = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    exists = channel < C_IN
    part_ptr = parts_ptr + tl.program_id(0) * PART_COLUMNS
    begin, end, run_count = column(part_ptr, PART_LOW), column(part_ptr, PART_HIGH), column(part_ptr, PART_TILE_COUNT)
    level = tl.load(tiles_ptr + column(part_ptr, PART_FIRST_TILE) * TILE_COLUMNS + TILE_MAP)
    level_ptr = levels_ptr + level * LEVEL_COLUMNS
    area = column(level_ptr, HEIGHT) * column(level_ptr, WIDTH)
    place = tl.arange(0, BLOCK_P)

    image, first = begin // run_count, begin % run_count * BLOCK_P
    following = _load_read_by(grad_ptr, image, packed_rows, level_ptr, first + place, pair)
    total = tl.zeros((BLOCK_C, BLOCK_O), tl.float32)
    for index in range(begin, end):
        row = image.to(tl.int64) * packed_rows + column(level_ptr, START) + first
        rows = tl.load(
            values_ptr + row * C_IN + (place[:, None] * C_IN + channel[None, :]),
            mask=(first + place < area)[:, None] & exists[None, :],
            other=0.0,
        )
        # The next run's gradients are gathered during this one's product; behind the part's last run is none.
        grad = following
        is_last = first + BLOCK_P >= area
        image, first = image + is_last.to(tl.int32), tl.where(is_last, 0, first + BLOCK_P)
        following = _load_read_by(
            grad_ptr, image, packed_rows, level_ptr, tl.where(index + 1 < end, first, area) + place, pair
        )
        if SPLIT:
            high, low = _two_parts(grad, rows.dtype)
            total = add_product(total, tl.trans(rows), high, PRECISION)
            total = add_product(total, tl.trans(rows), low, PRECISION)
        else:
            total = add_product(total, tl.trans(rows.to(tl.float32)), grad, PRECISION)
    at = (tl.program_id(0) * (CHANNELS * TAPS) + pair)[None, :] * C_IN + channel[:, None]
    tl.store(grad_weight_ptr + at, total, mask=(pair < CHANNELS * TAPS)[None, :] & exists[:, None])
