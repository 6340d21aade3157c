"""Tables of one DyHead block: where its three branches read offsets and maps, and where they write."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from ..device_cache import DeviceCache, cached_on_device
from ..launch.launching import block_size, parameters
from ..launch.tables import MOST_LAYOUTS, Level, Maps, Segment, Strips, Tables, int_table, strip_order
from .layout import BRANCHES, HIGH, LOW, MID, BranchLayout, line_weights
from .parameters import OFFSETS, OFFSETS_AND_MASKS, OffsetMode


@dataclass(frozen=True, eq=False)
class BlockTables:
    """Tables for one pyramid and offset mode on one device.

    Results of all branches share a buffer of rows: high of all images, then mid, then low. Offsets and masks of an
    image are (27, H, W) of each level, and in mode "resize" then of each level but the last on the coarser one's grid.
    """

    layout: BranchLayout
    offset_mode: OffsetMode
    cache: DeviceCache

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """First packed position of each level, and S at the end."""
        return self.layout.starts

    @property
    def packed_rows(self) -> int:
        """S: rows of an image in `mid`."""
        return self.starts[-1]

    @property
    def coarse_rows(self) -> int:
        """Rows of an image in `high` and in `low`: those of all levels but the finest."""
        return self.starts[-1] - self.starts[1]

    @property
    def rows(self) -> int:
        """Rows of an image in all branches together."""
        return self.packed_rows + 2 * self.coarse_rows

    @property
    def offset_mask_size(self) -> int:
        """Elements of an image's offsets and masks."""
        return OFFSETS_AND_MASKS * (self.packed_rows + (self.coarse_rows if self.offset_mode == "resize" else 0))

    @property
    def branch_offset_mask_size(self) -> int:
        """Elements of an image's gradients of each branch's own offsets and masks."""
        return OFFSETS_AND_MASKS * self.rows

    @cached_property
    def levels(self) -> Maps:
        """Maps of the kernels over levels."""
        coarser = [*self.layout.shapes[1:], (0, 0)]
        return Maps(
            tuple(
                Level(*size, start, *coarse)
                for size, start, coarse in zip(self.layout.shapes, self.starts, coarser, strict=False)
            ),
            self.cache,
        )

    @cached_property
    def segments(self) -> Maps:
        """Maps of the grouped deformable convolution, in the order of `branch_levels`."""
        return Maps(tuple(self._segment(branch, level) for branch, level in self.branch_levels), self.cache)

    @cached_property
    def branch_levels(self) -> tuple[tuple[int, int], ...]:
        """(branch, level) of every map there is, the largest branch first."""
        pairs = ((branch, level) for branch in (MID, HIGH, LOW) for level in self.layout.levels)
        return tuple(pair for pair in pairs if self.layout.has(*pair))

    @cached_property
    def window(self) -> int:
        """Most lines or columns of a level whose upsampling reads one pixel of the coarser level."""
        sizes = [1]
        for fine, coarse in zip(self.layout.shapes, self.layout.shapes[1:], strict=False):
            for large, small in zip(fine, coarse, strict=True):
                sizes.append(large if small == 1 else -(-2 * (large - 1) // (small - 1)))
        return max(sizes)

    def _segment(self, branch: int, level: int) -> Segment:
        shapes = self.layout.shapes
        source, output = self.layout.source(branch, level), self.layout.output(branch, level)
        (height, width), (fine_height, fine_width) = shapes[output], shapes[level]
        area, fine_area = height * width, fine_height * fine_width
        within = self.starts[output] - (0 if branch == MID else self.starts[1])
        before = {HIGH: 0, MID: self.coarse_rows, LOW: self.coarse_rows + self.packed_rows}[branch]

        offset_start = OFFSETS_AND_MASKS * self.starts[level]
        mask_start = offset_start + OFFSETS * fine_area
        channel, line = fine_area, fine_width
        if branch == HIGH and self.offset_mode != "crop":
            channel, line = area, width
            if self.offset_mode == "resize":
                offset_start = OFFSETS_AND_MASKS * (self.packed_rows + within)
                mask_start = offset_start + OFFSETS * area
        grad_start = OFFSETS_AND_MASKS * (before + within)
        first_weight = self._first_weight[branch, level]
        return Segment(
            height=height,
            width=width,
            row_start=within,
            row_image=self.packed_rows if branch == MID else self.coarse_rows,
            row_before=before,
            source_start=self.starts[source],
            source_height=shapes[source][0],
            source_width=shapes[source][1],
            stride_y=2 if branch == LOW else 1,
            stride_x=2 if branch == LOW else 1,
            offset_start=offset_start,
            mask_start=mask_start,
            offset_channel=channel,
            offset_line=line,
            grad_offset_start=grad_start,
            grad_mask_start=grad_start + OFFSETS * area,
            weight=branch,
            mean_weight_y=first_weight,
            mean_weight_x=first_weight + height,
        )

    @cached_property
    def _first_weight(self) -> dict[tuple[int, int], int]:
        position, starts = 0, {}
        for branch, level in self.branch_levels:
            starts[branch, level] = position
            position += sum(self.layout.shapes[self.layout.output(branch, level)])
        return starts

    def mean_weights(self) -> Tensor:
        """Weight of each line and each column of every segment in the mean of what is added to its level; float32."""
        return self.cache.made(BlockTables.mean_weights, lambda: self.cache.tensor(self._mean_weights().float()))

    def pieces(self, strips: Strips) -> Tensor:
        """(pieces, 2) float32, the positions of each piece, and its weight in that mean."""
        return self.cache.made((BlockTables.pieces, strips), lambda: self._pieces(strips))

    def merges(self, strips: Strips) -> Tensor:
        """(L * 3, 2) int32, first piece and end of the segment of each level and branch; (0, 0) where there is none."""
        return self.cache.made((BlockTables.merges, strips), lambda: self._merges(strips))

    def first_tiles(self, level_tables: Tables) -> Tensor:
        """(L + 1, 1) int32, the first tile of each level, and the number of tiles."""
        key, rows = (BlockTables.first_tiles, level_tables), [(first,) for first in level_tables.first_tile]
        return self.cache.made(key, lambda: int_table(self.cache, rows, 1))

    def launch_options(self, kernel: str, like: Tensor) -> tuple[dict[str, int], Tables]:
        """Launch parameters, the block of channels no larger than needed, and the levels' tiles, or runs."""
        options = _options(kernel, like)
        if "TILE_W" not in options:
            return options, self.levels.runs(options["BLOCK_P"])
        return options, self.levels.tables(options["BLOCK_P"] // options["TILE_W"], options["TILE_W"])

    def strip_options(self, kernel: str, like: Tensor) -> tuple[dict[str, int], Strips]:
        """As `launch_options` for tiles of strips, whose width the table says."""
        options = _options(kernel, like)
        width = options.pop("TILE_W")
        return options, self.levels.strips(options["BLOCK_P"] // width, width)

    def _mean_weights(self) -> Tensor:
        parts = []
        for branch, level in self.branch_levels:
            sizes = zip(self.layout.shapes[self.layout.output(branch, level)], self.layout.shapes[level], strict=True)
            parts += [line_weights(small, large if branch == HIGH else small) for small, large in sizes]
        return torch.cat(parts)

    def _pieces(self, strips: Strips) -> Tensor:
        weights, parts = self._mean_weights(), []
        for segment in self.segments.maps:
            assert isinstance(segment, Segment)
            lines = weights[segment.mean_weight_y :][: segment.height]
            columns = weights[segment.mean_weight_x :][: segment.width]
            order = strip_order(segment.height, segment.width, strips.width)
            parts.append(torch.outer(lines, columns).flatten()[order])
        each = torch.stack([part.sum() for part in torch.cat(parts).split(strips.piece_sizes)])
        sizes = torch.tensor(strips.piece_sizes, dtype=torch.float32, device="cpu")
        return self.cache.tensor(torch.stack([sizes, each.float()], dim=1))

    def _merges(self, strips: Strips) -> Tensor:
        spans = dict(zip(self.branch_levels, pairwise(strips.first_piece), strict=True))
        places = ((branch, level) for level in self.layout.levels for branch in BRANCHES)
        return int_table(self.cache, [spans.get(place, (0, 0)) for place in places], 2)


def _options(kernel: str, like: Tensor) -> dict[str, int]:
    options = parameters(kernel, like)
    if "BLOCK_C" in options:
        options["BLOCK_C"] = block_size(options["BLOCK_C"], like.shape[-1])
    return options


@cached_on_device(MOST_LAYOUTS)
def block_tables(cache: DeviceCache, layout: BranchLayout, offset_mode: OffsetMode) -> BlockTables:
    """The same object for equal arguments, so that its tables are made once."""
    return BlockTables(layout, offset_mode, cache)
