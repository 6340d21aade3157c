"""Maps that one launch serves, and their tiles, as small tables on the device.

A grouped kernel serves many maps at once. A program looks up its tile, that is a map and a corner in it, and the map's
sizes, strides and start addresses. The host makes a table once per layout and caches it, see `device_cache`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from ..device_cache import DeviceCache

TILE = ("map", "y", "x")
"""Columns of the table of tiles: the map, the first line, the first column."""

PLACE = ("map", "line", "column")
"""Rows of the table of places: each position's map, line and column; a line of -1 where a tile has no position."""

STRIP_TILE = ("map", "maps", "piece")
"""Columns of the table of tiles of strips: the first map, the number of maps, the number of the first piece."""

STATISTICS = ("mean", "squares", "weighted")
"""Rows of C values that a convolution leaves for each piece of its output: the mean, then the sum of squared and the
weighted sum of deviations from it."""

MOST_LAYOUTS = 128
"""Layouts whose tables are kept, 0.5 MiB each for images of 800x1344: training at many scales meets ever new ones."""

PART = ("first_tile", "tile_count", "low", "high")
"""Columns of the table of parts of a sum: the tiles of its group, and the part's range of tiles times images."""


@dataclass(frozen=True)
class Segment:
    """A map of a deformable convolution's outputs, the map it samples, and where its offsets, masks and results lie.

    Starts of offsets and masks count elements from the beginning of an image's offsets (or masks); rows are pixels of C
    channels. The order of the fields is the order of the table's columns, see `columns.py`.
    """

    height: int
    width: int
    row_start: int  # first row of the output within an image
    row_image: int  # output rows from one image to the next
    source_start: int  # first row of the sampled map within an image
    source_height: int
    source_width: int
    row_before: int = 0  # output rows of each image that come before all images of this one
    stride_y: int = 1
    stride_x: int = 1
    offset_start: int = 0
    mask_start: int = 0
    offset_channel: int = 0  # elements from one channel of offsets (or masks) to the next
    offset_line: int = 0
    grad_offset_start: int = 0  # gradients of offsets and masks are dense, (channels, height, width)
    grad_mask_start: int = 0
    weight: int = 0  # which of the stacked weights
    mean_weight_y: int = 0  # first of the weights that each line and each column has in the weighted mean
    mean_weight_x: int = 0


@dataclass(frozen=True)
class Level:
    """A level of a packed pyramid, and the level coarser than it (of no size after the last one)."""

    weight: ClassVar[int] = 0  # all levels are multiplied by the same
    height: int
    width: int
    start: int  # first packed row
    coarse_height: int
    coarse_width: int


@dataclass(frozen=True, eq=False)
class Tables:
    """Tables of one launch.

    Attributes:
        maps: (number of maps, fields) int32.
        tiles: (number of tiles, 3) int32: map, first line, first column; ordered by map.
        first_tile: index of each map's first tile, and the number of tiles at the end.
        tile_height, tile_width: lines and columns of a tile; less at a map's end.
    """

    maps: Tensor
    tiles: Tensor
    first_tile: tuple[int, ...]
    tile_height: int
    tile_width: int

    @property
    def tile_count(self) -> int:
        """Tiles of all maps."""
        return self.first_tile[-1]


@dataclass(frozen=True, eq=False)
class Strips:
    """Tables of one launch whose tiles have so many positions each, whatever the sizes of the maps.

    Maps are cut into vertical strips. Positions go through a strip line by line, through a map from its first strip to
    its last, and on to the next map of the same weight: only the last tile of a weight lacks some. The part of a tile
    that lies on one map is a piece.

    Attributes:
        maps: (number of maps, fields) int32.
        places: (number of tiles, 3, lines, columns) int16, see `PLACE`; lines and columns of a tile within one strip.
            Int32 where a map is too large.
        tile_rows: of each tile, see `STRIP_TILE`.
        piece_sizes: positions of each piece, in the order of tiles and of maps.
        first_piece: index of each map's first piece, and the number of pieces at the end.
    """

    maps: Tensor
    places: Tensor
    tile_rows: tuple[tuple[int, int, int], ...]
    piece_sizes: tuple[int, ...]
    first_piece: tuple[int, ...]
    cache: DeviceCache

    @property
    def tiles(self) -> Tensor:
        """(number of tiles, 3) int32, see `STRIP_TILE`: for launches that write pieces."""
        return self.cache.made((Strips, self), lambda: int_table(self.cache, self.tile_rows, len(STRIP_TILE)))

    @property
    def tile_count(self) -> int:
        """Tiles of all maps."""
        return len(self.tile_rows)

    @property
    def width(self) -> int:
        """Columns of a strip; the last of a map may have less."""
        return self.places.shape[3]

    @property
    def piece_count(self) -> int:
        """Pieces of all maps."""
        return len(self.piece_sizes)


@dataclass(frozen=True, eq=False)
class Maps:
    """The maps that a launch serves, and where tables made of them are kept."""

    maps: tuple[Segment | Level, ...]
    cache: DeviceCache

    def tables(self, tile_height: int, tile_width: int) -> Tables:
        """Cut every map into tiles of so many lines and columns."""
        key = (Maps.tables, self, tile_height, tile_width)
        return self.cache.made(key, lambda: self._tables(tile_height, tile_width))

    def runs(self, length: int) -> Tables:
        """Cut every map into runs of so many positions, which go on in the next line: tiles of the map as one line."""
        return self.cache.made((Maps.runs, self, length), lambda: self._tables(1, length, flat=True))

    def _tables(self, tile_height: int, tile_width: int, flat: bool = False) -> Tables:
        rows: list[tuple[int, int, int]] = []
        first_tile = [0]
        for index, each in enumerate(self.maps):
            height, width = (1, each.height * each.width) if flat else (each.height, each.width)
            rows += ((index, y, x) for y in range(0, height, tile_height) for x in range(0, width, tile_width))
            first_tile.append(len(rows))
        return Tables(
            int_table(self.cache, [astuple(each) for each in self.maps], len(fields(self.maps[0]))),
            int_table(self.cache, rows, len(TILE)),
            tuple(first_tile),
            tile_height,
            tile_width,
        )

    def strips(self, height: int, width: int) -> Strips:
        """Cut every map into strips of so many columns, and those into tiles of `height * width` positions."""
        key = (Maps.strips, self, height, width)
        return self.cache.made(key, lambda: self._strips(height, width))

    def _strips(self, height: int, width: int) -> Strips:
        tiles: list[list[int]] = []
        sizes: list[int] = []
        first_piece = [0]
        places: list[Tensor] = []
        free, weight = 0, None
        for index, each in enumerate(self.maps):
            if each.weight != weight:
                places.append(torch.tensor([[index], [-1], [-1]], device="cpu").expand(-1, free))
                free, weight = 0, each.weight
            order = strip_order(each.height, each.width, width)
            places.append(torch.stack([torch.full_like(order, index), order // each.width, order % each.width]))
            left = each.height * each.width
            while left:
                if not free:
                    tiles.append([index, 0, len(sizes)])
                    free = height * width
                sizes.append(min(free, left))
                free, left = free - sizes[-1], left - sizes[-1]
                tiles[-1][STRIP_TILE.index("maps")] += 1
            first_piece.append(len(sizes))
        places.append(torch.tensor([[len(self.maps) - 1], [-1], [-1]], device="cpu").expand(-1, free))
        largest = max(max(each.height, each.width) for each in self.maps)
        dtype = torch.int16 if largest <= torch.iinfo(torch.int16).max else torch.int32
        by_tile = torch.cat(places, dim=1).to(dtype).view(len(PLACE), -1, height, width).transpose(0, 1)
        return Strips(
            int_table(self.cache, [astuple(each) for each in self.maps], len(fields(self.maps[0]))),
            self.cache.tensor(by_tile.contiguous()),
            tuple((first, count, piece) for first, count, piece in tiles),
            tuple(sizes),
            tuple(first_piece),
            self.cache,
        )


def strip_order(height: int, width: int, strip: int) -> Tensor:
    """(height * width,) int64, the positions of a map in the order of its strips, on the host."""
    numbers = torch.arange(height * width, device="cpu").view(height, width)
    return torch.cat([part.flatten() for part in numbers.split(strip, dim=1)])


def int_table(cache: DeviceCache, rows: Sequence[Sequence[int]], columns: int) -> Tensor:
    """(rows, columns) int32, on the device. For functions that the cache's `made` calls."""
    return cache.tensor(torch.tensor(rows, dtype=torch.int32, device="cpu").view(-1, columns))
