"""Overlapping tiles of a picture that is large for what a detector was trained on."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

from dyzoo.config import PreprocessConfig
from dyzoo.errors import ImageError, SettingError
from dyzoo.model.sizes import Size, zoom

Tiles = int | Literal["auto", "off"]
Span = tuple[int, int]
"""Where a column or a row of tiles begins and ends, in pixels of the picture."""

OVERLAP = 0.25
"""Share of a tile's side that its neighbour sees too, at least."""

OVERLAP_OBJECTS = 2.0
"""The same in sides of the typical object, so that nearly all objects at a seam are whole in one of the tiles."""

SMALLEST_PX = 32
MOST_TILES = 4096
MUCH_LARGER = 2.0
_MARGIN = 0.1  # of the overlap, from an inner edge: a box that ends there may be cut


class Grid(NamedTuple):
    """Tiles of a picture: each column with each row.

    Attributes:
        columns, rows: from the left and from the top.
        zoom: pixels of the network's input for one of the picture.
    """

    columns: tuple[Span, ...]
    rows: tuple[Span, ...]
    zoom: float

    def areas(self) -> list[tuple[int, int, int, int]]:
        """(x1, y1, x2, y2) of every tile, row by row."""
        return [(x1, y1, x2, y2) for y1, y2 in self.rows for x1, x2 in self.columns]

    @property
    def margins(self) -> tuple[float, float]:
        """Pixels from a tile's inner edges, in x and y, within which the end of a box may be a cut."""
        return _margin(self.columns), _margin(self.rows)


def check_tiles(tiles: Any, config: PreprocessConfig) -> Tiles:
    """The setting itself. Raises `ValueError`: it is none, or "auto" where the training scale is not known."""
    if tiles == "auto" and config.training_scale is None:
        raise SettingError(
            "tiles is 'auto', but the detector's configuration has no training_scale (it was made before version 0.2): "
            "give the number of tiles in each direction, or set config.preprocess.training_scale"
        )
    if tiles not in ("auto", "off") and (isinstance(tiles, bool) or not isinstance(tiles, int) or tiles < 1):
        raise SettingError(f"tiles is {tiles!r}, expected 'auto', 'off' or a number of tiles in each direction")
    return tiles


def tile_grid(config: PreprocessConfig, image_size: tuple[int, int], size: Size, tiles: Tiles) -> Grid | None:
    """The tiles of a picture of that (H, W), None where it is to be seen as a whole.

    Args:
        config: its training scale is what "auto" needs.
        image_size: (H, W) of the picture.
        size: as for `predict`, here of a tile.
        tiles: a number N makes N x N tiles. "auto" makes tiles as large as the pictures of the training, where the
            whole picture would be seen at less than half of the scale at which the detector has learnt.

    Raises:
        ImageError: there would be more than `MOST_TILES` tiles.
    """
    height, width = image_size
    if tiles == "auto":
        trained = config.training_scale
        assert trained is not None  # `check_tiles`
        if zoom(config, image_size, size) * MUCH_LARGER >= zoom(config, trained.image_size, None):
            return None
        shorter, longer = sorted(trained.image_size)
        tile = (shorter, longer) if height < width else (longer, shorter)
        spans = [
            _spans(length, side, round(min(max(OVERLAP * side, OVERLAP_OBJECTS * trained.object_px), side / 2)))
            for length, side in zip(image_size, tile, strict=True)
        ]
        grid = Grid(spans[1], spans[0], zoom(config, trained.image_size, size))
    elif tiles == "off" or tiles == 1:
        return None
    else:
        counts = [max(min(tiles, length // SMALLEST_PX), 1) for length in image_size]
        rows, columns = (_split(length, count) for length, count in zip(image_size, counts, strict=True))
        tile = (rows[0][1] - rows[0][0], columns[0][1] - columns[0][0])
        grid = Grid(columns, rows, zoom(config, tile, size))
    count = len(grid.columns) * len(grid.rows)
    if count > MOST_TILES:
        raise ImageError(
            f"the picture of {height} x {width} pixels (H x W) would be cut into {count} tiles, "
            f"expected at most {MOST_TILES}: set a smaller number of tiles"
        )
    return grid if count > 1 else None


def _spans(length: int, side: int, overlap: int) -> tuple[Span, ...]:
    """As few spans of this side as cover the length with this overlap or more, evenly."""
    side = min(side, length)
    count = 1 if side == length else math.ceil((length - overlap) / (side - overlap))
    return _evenly(length, side, count)


def _split(length: int, count: int) -> tuple[Span, ...]:
    """So many spans over the length, with `OVERLAP`."""
    return _evenly(length, math.ceil(length / (count - (count - 1) * OVERLAP)), count)


def _evenly(length: int, side: int, count: int) -> tuple[Span, ...]:
    step = (length - side) / max(count - 1, 1)
    return tuple((round(n * step), round(n * step) + side) for n in range(count))


def _margin(spans: tuple[Span, ...]) -> float:
    return _MARGIN * (spans[0][1] - spans[1][0]) if len(spans) > 1 else 0.0
