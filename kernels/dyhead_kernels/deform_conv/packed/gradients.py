"""Steps that the kernels of `kernels_backward.py` and `kernels_window.py` share.

With G = W^T dY, the gradient of a column of samples, and v_ij a corner's values, offsets and masks need but the four
sums over channels s_ij = sum_c G v_ij: the derivative of sum_ij w_ij s_ij by the bilinear weights w.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ...launch.columns import (
    GRAD_MASK_START,
    GRAD_OFFSET_START,
    HEIGHT,
    SOURCE_HEIGHT,
    SOURCE_WIDTH,
    STRIDE_X,
    STRIDE_Y,
    WIDTH,
    column,
)
from .arguments import Gradients


@triton.jit
def _first_pixel(tile_start, stride, padding, reach, length, TILE: tl.constexpr, WINDOW: tl.constexpr):
    """First line (or column) of the window of the tile that begins at output `tile_start`.

    The window reaches as far beyond the samples without offsets on either side, but stays on the map where there is
    room. `reach`: pixels from the first tap to the last.
    """
    margin = WINDOW - ((TILE - 1) * stride + reach + 2)
    first = tile_start * stride - padding - (margin + 1) // 2
    return tl.maximum(tl.minimum(first, length - WINDOW), 0)


@triton.jit
def window_start(segment_ptr, tile_y, tile_x, CONV: tl.constexpr, WINDOWS: tl.constexpr):
    """First line and first column of the windows of the tiles that begin at outputs (tile_y, tile_x)."""
    first_line = _first_pixel(
        tile_y,
        column(segment_ptr, STRIDE_Y),
        CONV.padding_y,
        (CONV.taps // CONV.kernel_width - 1) * CONV.dilation_y,
        column(segment_ptr, SOURCE_HEIGHT),
        WINDOWS.tile_height,
        WINDOWS.height,
    )
    first_column = _first_pixel(
        tile_x,
        column(segment_ptr, STRIDE_X),
        CONV.padding_x,
        (CONV.kernel_width - 1) * CONV.dilation_x,
        column(segment_ptr, SOURCE_WIDTH),
        WINDOWS.tile_width,
        WINDOWS.width,
    )
    return first_line, first_column


@triton.jit
def outside_windows(corners, segment_ptr, y, x, CONV: tl.constexpr, WINDOWS: tl.constexpr):
    """Which corners are on the map but not in the window of their position (y, x), four of shape (P,)."""
    first_line, first_column = window_start(
        segment_ptr,
        y // WINDOWS.tile_height * WINDOWS.tile_height,
        x // WINDOWS.tile_width * WINDOWS.tile_width,
        CONV,
        WINDOWS,
    )
    line, pixel = corners.line - first_line, corners.pixel - first_column
    top, bottom = (line >= 0) & (line < WINDOWS.height), (line >= -1) & (line < WINDOWS.height - 1)
    left, right = (pixel >= 0) & (pixel < WINDOWS.width), (pixel >= -1) & (pixel < WINDOWS.width - 1)
    return (
        corners.top_left & ~(top & left),
        corners.top_right & ~(top & right),
        corners.bottom_left & ~(bottom & left),
        corners.bottom_right & ~(bottom & right),
    )


@triton.jit
def load_grad_output(
    grad_output_ptr, output_row, inside, group, output_block, CONV: tl.constexpr, BLOCK_O: tl.constexpr
):
    """dY of output positions and of a block of a weight group's output channels, (P, BLOCK_O)."""
    group_output = output_block * BLOCK_O + tl.arange(0, BLOCK_O)
    output_channel = (group * CONV.group_out + group_output).to(tl.int64)
    return tl.load(
        grad_output_ptr + output_row[:, None] * CONV.out_channels + output_channel[None, :],
        mask=inside[:, None] & (group_output < CONV.group_out)[None, :],
        other=0.0,
    )


@triton.jit
def load_weights(weight_ptr, group, output_block, channel, channel_exists, CONV: tl.constexpr, BLOCK_O: tl.constexpr):
    """W of those output channels and of input channels (K,) of the group, (BLOCK_O, K); `weight_ptr` is the tap's."""
    group_output = output_block * BLOCK_O + tl.arange(0, BLOCK_O)
    output_channel = (group * CONV.group_out + group_output).to(tl.int64)
    group_channel = channel - group * CONV.group_in
    return tl.load(
        weight_ptr + output_channel[:, None] * (CONV.taps * CONV.group_in) + group_channel[None, :],
        mask=(group_output < CONV.group_out)[:, None] & channel_exists[None, :],
        other=0.0,
    )


@triton.jit
def each_corner(top_left, top_right, bottom_left, bottom_right):
    """Four tensors (P,) as one, (P, 4)."""
    corner = tl.arange(0, 4)[None, :]
    top = tl.where(corner == 0, top_left[:, None], top_right[:, None])
    return tl.where(corner < 2, top, tl.where(corner == 2, bottom_left[:, None], bottom_right[:, None]))


@triton.jit
def corner_rows(corners):
    """Packed rows of the corners, (P, 4), in the order of `each_corner`."""
    corner = tl.arange(0, 4)[None, :]
    return corners.row[:, None] + (corner % 2 + corner // 2 * corners.next_line[:, None])


@triton.jit
def bilinear_weights(corners):
    """Bilinear weights of the corners, (P, 4)."""
    below, right = corners.below, corners.right
    above, left = 1 - below, 1 - right
    return each_corner(above * left, above * right, below * left, below * right)


@triton.jit
def store_offset_gradients(
    gradients: Gradients, segment_ptr, image, tap_channel, position, inside, corners, sums, HAS_MASK: tl.constexpr
):
    """Write the gradients of one tap's offsets and masks from the sums s_ij (P, 4)."""
    below, right = corners.below, corners.right
    above, left = 1 - below, 1 - right
    grad_y = tl.sum(sums * each_corner(-left, -right, left, right), axis=1)
    grad_x = tl.sum(sums * each_corner(-above, above, -below, below), axis=1)
    channel_step = column(segment_ptr, HEIGHT) * column(segment_ptr, WIDTH)
    at = gradients.offset_ptr + image * gradients.offset_image + column(segment_ptr, GRAD_OFFSET_START)
    at += 2 * tap_channel * channel_step + position
    tl.store(at, grad_y * corners.modulation, mask=inside)
    tl.store(at + channel_step, grad_x * corners.modulation, mask=inside)
    if HAS_MASK:
        grad_mask = tl.sum(sums * bilinear_weights(corners), axis=1)
        at = gradients.mask_ptr + image * gradients.mask_image + column(segment_ptr, GRAD_MASK_START)
        at += tap_channel * channel_step + position
        tl.store(at, grad_mask, mask=inside)


@triton.jit
def add_rows(
    image_ptr, row, exists, rows, scale, channel, channel_exists, CHANNELS: tl.constexpr, FIXED_POINT: tl.constexpr
):
    """Add (..., K) to packed rows (...); as multiples of 1 / scale in int64, which add up to the same in any order."""
    at = image_ptr + tl.expand_dims(row.to(tl.int64), -1) * CHANNELS + channel
    if FIXED_POINT:
        rows = (rows * scale).to(tl.int64)
    tl.atomic_add(at, rows, mask=tl.expand_dims(exists, -1) & channel_exists, sem="relaxed")
