"""Sums over tiles: the moments of each map from its tiles' statistics, and gradients of coefficients from theirs.

Programs keep a block of running sums, tiles x channels, and add it up once at the end: no waiting for each other within
the loop.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ...launch.columns import (
    HEIGHT,
    SEGMENT_COLUMNS,
    STATISTICS_ROWS,
    TILE_COLUMNS,
    TILE_MAP,
    TILE_MEAN,
    TILE_SQUARES,
    TILE_WEIGHTED,
    TILE_X,
    TILE_Y,
    WIDTH,
    column,
)
from .rows import MEAN, MEAN_CHANGE, MOMENTS, VARIANCE


@triton.jit
def _tile_area(tiles_ptr, tile, known, height, width, TILE_H: tl.constexpr, TILE_W: tl.constexpr):
    """Positions of each tile that lie on its map (height, width)."""
    lines = tl.minimum(height - tl.load(tiles_ptr + tile * TILE_COLUMNS + TILE_Y, mask=known, other=0), TILE_H)
    columns = tl.minimum(width - tl.load(tiles_ptr + tile * TILE_COLUMNS + TILE_X, mask=known, other=0), TILE_W)
    return (lines * columns).to(tl.float32)


@triton.jit
def _attention_moments_kernel(
    moments_ptr,
    partial_ptr,
    merges_ptr,
    tiles_ptr,
    tile_weights_ptr,
    segments_ptr,
    tile_count,
    C: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Moments (N, L, 3 branches, 3, C) from those of the tiles, (N, tiles, 3, C); zero where a branch is absent.

    `merges_ptr`, (L, 3, 2): first tile and end of each branch of a level. The mean comes first, then squares are taken
    around it: no large number is ever squared. Grid: (L x 3, blocks of channels, N).
    """
    image = tl.program_id(2).to(tl.int64)
    place = tl.program_id(0)
    first, last = tl.load(merges_ptr + place * 2), tl.load(merges_ptr + place * 2 + 1)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    exists = channel < C
    partial_ptr += image * tile_count * (STATISTICS_ROWS * C)
    mean = tl.zeros((BLOCK_C,), tl.float32)
    variance = tl.zeros((BLOCK_C,), tl.float32)
    mean_change = tl.zeros((BLOCK_C,), tl.float32)
    if first < last:
        segment_ptr = segments_ptr + tl.load(tiles_ptr + first * TILE_COLUMNS + TILE_MAP) * SEGMENT_COLUMNS
        height, width = column(segment_ptr, HEIGHT), column(segment_ptr, WIDTH)
        area = (height * width).to(tl.float32)
        sums = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
        for start in range(first, last, BLOCK_T):
            tile = start + tl.arange(0, BLOCK_T)
            count = _tile_area(tiles_ptr, tile, tile < last, height, width, TILE_H, TILE_W)
            here = (tile < last)[:, None] & exists[None, :]
            at = partial_ptr + tile[:, None] * (STATISTICS_ROWS * C) + channel[None, :]
            sums += tl.load(at + TILE_MEAN * C, mask=here, other=0.0) * count[:, None]
        mean = tl.sum(sums, axis=0) / area
        squares = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
        changes = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
        for start in range(first, last, BLOCK_T):
            tile = start + tl.arange(0, BLOCK_T)
            count = _tile_area(tiles_ptr, tile, tile < last, height, width, TILE_H, TILE_W)
            weight = tl.load(tile_weights_ptr + tile, mask=tile < last, other=0.0)
            here = (tile < last)[:, None] & exists[None, :]
            at = partial_ptr + tile[:, None] * (STATISTICS_ROWS * C) + channel[None, :]
            away = tl.where(here, tl.load(at + TILE_MEAN * C, mask=here, other=0.0) - mean[None, :], 0.0)
            squares += tl.load(at + TILE_SQUARES * C, mask=here, other=0.0) + away * away * count[:, None]
            changes += tl.load(at + TILE_WEIGHTED * C, mask=here, other=0.0) + away * weight[:, None]
        variance = tl.sum(squares, axis=0) / area
        mean_change = tl.sum(changes, axis=0)
    moments_ptr += (image * tl.num_programs(0) + place) * (MOMENTS * C) + channel
    tl.store(moments_ptr + MEAN * C, mean, mask=exists)
    tl.store(moments_ptr + VARIANCE * C, variance, mask=exists)
    tl.store(moments_ptr + MEAN_CHANGE * C, mean_change, mask=exists)


@triton.jit
def _attention_sums_kernel(
    sums_ptr,
    partial_ptr,
    first_tiles_ptr,
    tile_count,
    COLUMNS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """(N, tiles, COLUMNS) summed over the tiles of each level: (N, L, COLUMNS). Grid: (L, blocks of columns, N)."""
    image = tl.program_id(2).to(tl.int64)
    first, last = tl.load(first_tiles_ptr + tl.program_id(0)), tl.load(first_tiles_ptr + tl.program_id(0) + 1)
    each = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    partial_ptr += image * tile_count * COLUMNS
    sums = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    for start in range(first, last, BLOCK_T):
        tile = start + tl.arange(0, BLOCK_T)
        here = (tile < last)[:, None] & (each < COLUMNS)[None, :]
        sums += tl.load(partial_ptr + tile[:, None] * COLUMNS + each[None, :], mask=here, other=0.0)
    at = sums_ptr + (image * tl.num_programs(0) + tl.program_id(0)) * COLUMNS + each
    tl.store(at, tl.sum(sums, axis=0), mask=each < COLUMNS)
