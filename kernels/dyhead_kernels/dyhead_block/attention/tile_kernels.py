"""Sums over tiles: the moments of each map from its pieces' statistics, and gradients of coefficients from its tiles'.

Programs keep a block of running sums, pieces or tiles x channels, and add it up once at the end: no waiting for each
other within the loop.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ...launch.columns import PIECE_MEAN, PIECE_SQUARES, PIECE_WEIGHTED, STATISTICS_ROWS
from .rows import MEAN, MEAN_CHANGE, MOMENTS, VARIANCE


@triton.jit
def _attention_moments_kernel(
    moments_ptr,
    partial_ptr,
    merges_ptr,
    pieces_ptr,
    piece_count,
    C: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Moments (N, L, 3 branches, 3, C) from those of the pieces, (N, pieces, 3, C); zero where a branch is absent.

    `merges_ptr`, (L, 3, 2): first piece and end of each branch of a level. `pieces_ptr`, (pieces, 2): positions of a
    piece, and its weight in the mean. The mean comes first, then squares are taken around it: no large number is ever
    squared. Grid: (L x 3, blocks of channels, N).
    """
    image = tl.program_id(2).to(tl.int64)
    place = tl.program_id(0)
    first, last = tl.load(merges_ptr + place * 2), tl.load(merges_ptr + place * 2 + 1)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    exists = channel < C
    partial_ptr += image * piece_count * (STATISTICS_ROWS * C)
    mean = tl.zeros((BLOCK_C,), tl.float32)
    variance = tl.zeros((BLOCK_C,), tl.float32)
    mean_change = tl.zeros((BLOCK_C,), tl.float32)
    if first < last:
        sums = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
        counts = tl.zeros((BLOCK_T,), tl.float32)
        for start in range(first, last, BLOCK_T):
            piece = start + tl.arange(0, BLOCK_T)
            count = tl.load(pieces_ptr + piece * 2, mask=piece < last, other=0.0)
            here = (piece < last)[:, None] & exists[None, :]
            at = partial_ptr + piece[:, None] * (STATISTICS_ROWS * C) + channel[None, :]
            sums += tl.load(at + PIECE_MEAN * C, mask=here, other=0.0) * count[:, None]
            counts += count
        area = tl.sum(counts, axis=0)
        mean = tl.sum(sums, axis=0) / area
        squares = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
        changes = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
        for start in range(first, last, BLOCK_T):
            piece = start + tl.arange(0, BLOCK_T)
            count = tl.load(pieces_ptr + piece * 2, mask=piece < last, other=0.0)
            weight = tl.load(pieces_ptr + piece * 2 + 1, mask=piece < last, other=0.0)
            here = (piece < last)[:, None] & exists[None, :]
            at = partial_ptr + piece[:, None] * (STATISTICS_ROWS * C) + channel[None, :]
            away = tl.where(here, tl.load(at + PIECE_MEAN * C, mask=here, other=0.0) - mean[None, :], 0.0)
            squares += tl.load(at + PIECE_SQUARES * C, mask=here, other=0.0) + away * away * count[:, None]
            changes += tl.load(at + PIECE_WEIGHTED * C, mask=here, other=0.0) + away * weight[:, None]
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
