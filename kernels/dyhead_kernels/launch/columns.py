"""Access of kernels to the tables of `tables.py`. Both kinds of map begin with height and width."""

from __future__ import annotations

from dataclasses import fields

import triton
import triton.language as tl

from .tables import PART, PLACE, STATISTICS, STRIP_TILE, TILE, Level, Segment

_SEGMENT = [field.name for field in fields(Segment)]
_LEVEL = [field.name for field in fields(Level)]

HEIGHT = tl.constexpr(_SEGMENT.index("height"))
WIDTH = tl.constexpr(_SEGMENT.index("width"))

SEGMENT_COLUMNS = tl.constexpr(len(_SEGMENT))
ROW_START = tl.constexpr(_SEGMENT.index("row_start"))
ROW_BEFORE = tl.constexpr(_SEGMENT.index("row_before"))
ROW_IMAGE = tl.constexpr(_SEGMENT.index("row_image"))
SOURCE_START = tl.constexpr(_SEGMENT.index("source_start"))
SOURCE_HEIGHT = tl.constexpr(_SEGMENT.index("source_height"))
SOURCE_WIDTH = tl.constexpr(_SEGMENT.index("source_width"))
STRIDE_Y = tl.constexpr(_SEGMENT.index("stride_y"))
STRIDE_X = tl.constexpr(_SEGMENT.index("stride_x"))
OFFSET_START = tl.constexpr(_SEGMENT.index("offset_start"))
MASK_START = tl.constexpr(_SEGMENT.index("mask_start"))
OFFSET_CHANNEL = tl.constexpr(_SEGMENT.index("offset_channel"))
OFFSET_LINE = tl.constexpr(_SEGMENT.index("offset_line"))
GRAD_OFFSET_START = tl.constexpr(_SEGMENT.index("grad_offset_start"))
GRAD_MASK_START = tl.constexpr(_SEGMENT.index("grad_mask_start"))
WEIGHT = tl.constexpr(_SEGMENT.index("weight"))
MEAN_WEIGHT_Y = tl.constexpr(_SEGMENT.index("mean_weight_y"))
MEAN_WEIGHT_X = tl.constexpr(_SEGMENT.index("mean_weight_x"))

TILE_COLUMNS = tl.constexpr(len(TILE))
TILE_MAP, TILE_Y, TILE_X = (tl.constexpr(TILE.index(name)) for name in ("map", "y", "x"))

PLACE_ROWS = tl.constexpr(len(PLACE))
PLACE_MAP, PLACE_LINE, PLACE_COLUMN = (tl.constexpr(PLACE.index(name)) for name in ("map", "line", "column"))

STRIP_TILE_COLUMNS = tl.constexpr(len(STRIP_TILE))
STRIP_TILE_MAP, STRIP_TILE_MAPS, STRIP_TILE_PIECE = (
    tl.constexpr(STRIP_TILE.index(name)) for name in ("map", "maps", "piece")
)

STATISTICS_ROWS = tl.constexpr(len(STATISTICS))
PIECE_MEAN = tl.constexpr(STATISTICS.index("mean"))
PIECE_SQUARES = tl.constexpr(STATISTICS.index("squares"))
PIECE_WEIGHTED = tl.constexpr(STATISTICS.index("weighted"))

PART_COLUMNS = tl.constexpr(len(PART))
PART_FIRST_TILE = tl.constexpr(PART.index("first_tile"))
PART_TILE_COUNT = tl.constexpr(PART.index("tile_count"))
PART_LOW, PART_HIGH = tl.constexpr(PART.index("low")), tl.constexpr(PART.index("high"))

LEVEL_COLUMNS = tl.constexpr(len(_LEVEL))
START = tl.constexpr(_LEVEL.index("start"))
COARSE_HEIGHT = tl.constexpr(_LEVEL.index("coarse_height"))
COARSE_WIDTH = tl.constexpr(_LEVEL.index("coarse_width"))


@triton.jit
def column(map_ptr, index: tl.constexpr):
    """A field of the map whose row of the table starts at `map_ptr`."""
    return tl.load(map_ptr + index)


@triton.jit
def tile_positions(tiles_ptr, maps_ptr, tile, COLUMNS: tl.constexpr, BLOCK_P: tl.constexpr, TILE_W: tl.constexpr):
    """The map's row in its table; line, column and number of each position of the tile, and whether it exists."""
    map_ptr = maps_ptr + tl.load(tiles_ptr + tile * TILE_COLUMNS + TILE_MAP) * COLUMNS
    position = tl.arange(0, BLOCK_P)
    y = tl.load(tiles_ptr + tile * TILE_COLUMNS + TILE_Y) + position // TILE_W
    x = tl.load(tiles_ptr + tile * TILE_COLUMNS + TILE_X) + position % TILE_W
    width = column(map_ptr, WIDTH)
    inside = (y < column(map_ptr, HEIGHT)) & (x < width)
    return map_ptr, y, x, y * width + x, inside


@triton.jit
def strip_positions(places_ptr, tile, BLOCK_P: tl.constexpr):
    """Map, line and column of each position of a tile of `Strips`, and whether it exists; (BLOCK_P,) each.

    Where no position is, the map is one of its weight all the same.
    """
    at = places_ptr + tile * (PLACE_ROWS * BLOCK_P) + tl.arange(0, BLOCK_P)
    map_ = tl.load(at + PLACE_MAP * BLOCK_P).to(tl.int32)
    y = tl.load(at + PLACE_LINE * BLOCK_P).to(tl.int32)
    x = tl.load(at + PLACE_COLUMN * BLOCK_P).to(tl.int32)
    return map_, y, x, y >= 0


@triton.jit
def first_row(segment_ptr, image, images):
    """The first output row of a segment, of one of so many images."""
    before = column(segment_ptr, ROW_BEFORE).to(tl.int64) * images
    return before + image * column(segment_ptr, ROW_IMAGE) + column(segment_ptr, ROW_START)


@triton.jit
def if_any(inside, count):
    """`inside` where `count` is positive, else false. The interpreter cannot combine a block and a scalar condition."""
    return inside & (tl.zeros(inside.shape, tl.int32) < count)


@triton.jit
def aligned_step(size, points):
    """Pixels of a map of `size` from one of so many points to the next, spread from its first pixel to its last."""
    return (size - 1).to(tl.float32) / tl.maximum(points - 1, 1).to(tl.float32)
