"""Bilinear corners of sampling positions, and blocks of channels at them.

A position outside (-1, H) x (-1, W) samples zero, and so does each corner outside the map, as in DCNv2 (Zhu et al.,
CVPR 2019).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from ...launch.columns import (
    MASK_START,
    OFFSET_CHANNEL,
    OFFSET_LINE,
    OFFSET_START,
    SOURCE_HEIGHT,
    SOURCE_START,
    SOURCE_WIDTH,
    STRIDE_X,
    STRIDE_Y,
    column,
)


class Corners(NamedTuple):
    """Places that one tap of P output positions samples, each of shape (P,).

    Attributes:
        line, pixel: line and column of the top left corner; it may lie outside the map.
        row: packed row of that corner within an image.
        next_line: rows from one line of the source map to the next.
        top_left, top_right, bottom_left, bottom_right: whether each corner is on the map.
        below, right: bilinear weights of the bottom and of the right corners.
        modulation: the mask, 1 without one, 0 where there is no output position.
    """

    line: Any
    pixel: Any
    row: Any
    next_line: Any
    top_left: Any
    top_right: Any
    bottom_left: Any
    bottom_right: Any
    below: Any
    right: Any
    modulation: Any


@triton.jit
def _axis(position, length):
    """The pixel before `position`, whether it and the next one are on the map, and the weight of the next one."""
    low = tl.floor(position)
    low_inside = (low >= 0) & (low < length)
    high_inside = (low >= -1) & (low < length - 1)
    # A NaN or a position far away must not become an address.
    pixel = tl.where(low_inside | high_inside, low, 0.0).to(tl.int32)
    return pixel, low_inside, high_inside, position - low


@triton.jit
def find_corners(
    offset_ptr,
    mask_ptr,
    segment_ptr,
    y,
    x,
    inside,
    tap,
    offset_group,
    CONV: tl.constexpr,
):
    """`Corners` of one tap of the output positions (y, x); `offset_ptr` and `mask_ptr` point to the image.

    `segment_ptr` is one segment's for all positions, or (P,), each position's own.
    """
    places = offset_places(segment_ptr, y, x)
    return corners_at(places, offset_ptr, mask_ptr, segment_ptr, y, x, inside, tap, offset_group, CONV)


@triton.jit
def offset_places(segment_ptr, y, x):
    """Elements before the first channel's offset and mask of each position, and from one channel to the next."""
    place = y * column(segment_ptr, OFFSET_LINE) + x
    offset_at, mask_at = column(segment_ptr, OFFSET_START) + place, column(segment_ptr, MASK_START) + place
    return offset_at, mask_at, column(segment_ptr, OFFSET_CHANNEL)


@triton.jit
def corners_at(places, offset_ptr, mask_ptr, segment_ptr, y, x, inside, tap, offset_group, CONV: tl.constexpr):
    """`find_corners` for which `offset_places` has been called before."""
    offset_at, mask_at, channel_step = places
    tap_channel = (offset_group * CONV.taps + tap).to(tl.int64)
    at = offset_ptr + 2 * tap_channel * channel_step + offset_at
    dy = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    dx = tl.load(at + channel_step, mask=inside, other=0.0).to(tl.float32)
    if CONV.has_mask:
        at = mask_ptr + tap_channel * channel_step + mask_at
        modulation = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    else:
        modulation = inside.to(tl.float32)

    source_width = column(segment_ptr, SOURCE_WIDTH)
    grid_y = y * column(segment_ptr, STRIDE_Y) - CONV.padding_y + tap // CONV.kernel_width * CONV.dilation_y
    grid_x = x * column(segment_ptr, STRIDE_X) - CONV.padding_x + tap % CONV.kernel_width * CONV.dilation_x
    sample_y, sample_x = grid_y.to(tl.float32) + dy, grid_x.to(tl.float32) + dx
    line, top, bottom, below = _axis(sample_y, column(segment_ptr, SOURCE_HEIGHT))
    column_, left, right_, right = _axis(sample_x, source_width)
    row = column(segment_ptr, SOURCE_START) + line * source_width + column_
    top, bottom = top & inside, bottom & inside
    return Corners(
        line,
        column_,
        row,
        source_width + tl.zeros_like(row),
        top & left,
        top & right_,
        bottom & left,
        bottom & right_,
        below,
        right,
        modulation,
    )


@triton.jit
def load_rows(image_ptr, row, exists, channel, channel_exists, CHANNELS: tl.constexpr, EVEN: tl.constexpr):
    """Channels (K,) of packed rows (...) -> (..., K) float32; zero where a row or channel does not exist."""
    return _widened(_load_rows(image_ptr, row, exists, channel, channel_exists, CHANNELS, EVEN))


@triton.jit
def blend(image_ptr, corners, channel, channel_exists, CHANNELS: tl.constexpr, EVEN: tl.constexpr):
    """The modulated bilinear samples, (P, K) float32."""
    return blended(corner_weights(corners), _load_corners(image_ptr, corners, channel, channel_exists, CHANNELS, EVEN))


@triton.jit
def load_block(
    image_ptr, corners, first_channel, block, CHANNELS: tl.constexpr, RUN: tl.constexpr, BLOCK_C: tl.constexpr
):
    """A block of a run's channels at the four corners, for `blended`; nothing waits for it until then.

    Bfloat16 comes in pairs, (P, K / 2) int32: what is kept from one iteration of a loop to the next would else be taken
    apart into registers of 16 bits and put together again.
    """
    EVEN: tl.constexpr = RUN % BLOCK_C == 0
    EACH: tl.constexpr = 2 if EVEN and image_ptr.dtype.element_ty == tl.bfloat16 else 1
    if EACH == 2:
        image_ptr = image_ptr.to(tl.pointer_type(tl.int32), bitcast=True)
    run_channel = block * (BLOCK_C // EACH) + tl.arange(0, BLOCK_C // EACH)
    channel = first_channel // EACH + run_channel
    return _load_corners(image_ptr, corners, channel, run_channel < RUN // EACH, CHANNELS // EACH, EVEN)


@triton.jit
def corner_weights(corners):
    """Modulated bilinear weights of the top left, top right, bottom left and bottom right corners, (P,) each."""
    below = corners.below * corners.modulation
    above, left, right = (1 - corners.below) * corners.modulation, 1 - corners.right, corners.right
    return above * left, above * right, below * left, below * right


@triton.jit
def blended(weights, loaded):
    """The modulated bilinear samples, (P, K) float32, of channels at the four corners."""
    if loaded[0].dtype == tl.int32:
        # Either half by itself, so that weights and channels have one layout of threads, not one each.
        even = _blended(weights, _even(loaded[0]), _even(loaded[1]), _even(loaded[2]), _even(loaded[3]))
        odd = _blended(weights, _odd(loaded[0]), _odd(loaded[1]), _odd(loaded[2]), _odd(loaded[3]))
        value = tl.reshape(tl.join(even, odd), (even.shape[0], 2 * even.shape[1]))
    else:
        value = _blended(weights, _widened(loaded[0]), _widened(loaded[1]), _widened(loaded[2]), _widened(loaded[3]))
    return value


@triton.jit
def _blended(weights, top_left, top_right, bottom_left, bottom_right):
    value = top_left * weights[0][:, None]
    value += top_right * weights[1][:, None]
    value += bottom_left * weights[2][:, None]
    return value + bottom_right * weights[3][:, None]


@triton.jit
def _load_corners(image_ptr, corners, channel, channel_exists, CHANNELS: tl.constexpr, EVEN: tl.constexpr):
    """Channels at the top left, top right, bottom left and bottom right corners, as they are in memory."""
    at = image_ptr + corners.row.to(tl.int64)[:, None] * CHANNELS + channel[None, :]
    low = at + corners.next_line.to(tl.int64)[:, None] * CHANNELS
    top_left = _load_block(at, corners.top_left, channel_exists, EVEN)
    top_right = _load_block(at + CHANNELS, corners.top_right, channel_exists, EVEN)
    bottom_left = _load_block(low, corners.bottom_left, channel_exists, EVEN)
    bottom_right = _load_block(low + CHANNELS, corners.bottom_right, channel_exists, EVEN)
    return top_left, top_right, bottom_left, bottom_right


@triton.jit
def _load_rows(image_ptr, row, exists, channel, channel_exists, CHANNELS: tl.constexpr, EVEN: tl.constexpr):
    at = image_ptr + tl.expand_dims(row.to(tl.int64), -1) * CHANNELS + channel
    return _load_block(at, exists, channel_exists, EVEN)


@triton.jit
def _load_block(at, exists, channel_exists, EVEN: tl.constexpr):
    exists = tl.expand_dims(exists, -1)
    if EVEN:
        block = tl.load(at, mask=exists, other=0, cache_modifier=".ca")
    else:
        block = tl.load(at, mask=exists & channel_exists, other=0)
    return block


@triton.jit
def _widened(block):
    """The same numbers as float32.

    A bfloat16 is the upper half of a float32: said in integers, widening is one instruction an element, else two.
    """
    if block.dtype == tl.bfloat16:
        numbers = (block.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        numbers = block.to(tl.float32)
    return numbers


@triton.jit
def _even(pair):
    """The first bfloat16 of each pair in an int32, as float32."""
    return (pair << 16).to(tl.float32, bitcast=True)


@triton.jit
def _odd(pair):
    return (pair & -65536).to(tl.float32, bitcast=True)
