"""Maps that one launch serves, and their tiles, as small tables on the device.

A grouped kernel serves many maps at once. A program looks up its tile, that is a map and a corner in it, and the map's
sizes, strides and start addresses. The host makes a table once per layout and caches it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, fields

import torch
from torch import Tensor

TILE = ("map", "y", "x")
"""Columns of the table of tiles: the map, the first line, the first column."""

STATISTICS = ("mean", "squares", "weighted")
"""Rows of C values that a convolution leaves for each tile of its output: the mean, then the sum of squared and the
weighted sum of deviations from it."""

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
class Maps:
    """The maps that a launch serves, with the tables made of them so far."""

    maps: tuple[Segment | Level, ...]
    _made: dict[tuple[int, int, torch.device], Tables] = field(default_factory=dict)

    def tables(self, tile_height: int, tile_width: int, device: torch.device) -> Tables:
        """Cut every map into tiles of so many lines and columns."""
        key = (tile_height, tile_width, device)
        if key not in self._made:
            self._made[key] = self._tables(*key)
        return self._made[key]

    def _tables(self, tile_height: int, tile_width: int, device: torch.device) -> Tables:
        rows: list[tuple[int, int, int]] = []
        first_tile = [0]
        for index, each in enumerate(self.maps):
            lines, columns = range(0, each.height, tile_height), range(0, each.width, tile_width)
            rows += ((index, y, x) for y in lines for x in columns)
            first_tile.append(len(rows))
        return Tables(
            int_table([astuple(each) for each in self.maps], len(fields(self.maps[0])), device),
            int_table(rows, len(TILE), device),
            tuple(first_tile),
            tile_height,
            tile_width,
        )


def int_table(rows: Sequence[Sequence[int]], columns: int, device: torch.device) -> Tensor:
    """(rows, columns) int32, on the device."""
    return to_device(torch.tensor(rows, dtype=torch.int32).view(-1, columns), device)


def to_device(table: Tensor, device: torch.device) -> Tensor:
    """A copy that serves calls with and without gradients.

    Raises:
        RuntimeError: a CUDA graph is being captured, which cannot hold a copy from the host.
    """
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "the first call at a size makes tables, which a CUDA graph cannot capture: run the operator once before, "
            "forward and backward"
        )
    with torch.inference_mode(False):
        return table.clone().to(device)
