"""Traffic of each launch: bytes between the multiprocessors and the L2 cache, atomics, and how often its loops run.

Bytes of main memory need no formula: every tensor that a launch names moves once. Each formula here reads a launch's
arguments, its constants and its grid, and nothing else; what a kernel without one asks for is then unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, prod
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from ..launch.launching import Launch

REACH_PX = 2
"""How far from its tap a sample lies, nearly always: offsets are of a pixel or two."""
ON_IN_NEXT = 0.27
"""Share of the tiles of strips that go on in the next strip or map: of those of 128 positions over 800x1344."""
SHARE_OUTSIDE = 0.14
"""Tiles' taps that have corners outside the tiles' windows, with offsets of a standard deviation of 1.5 px."""
FLOAT = 4
OFFSETS_AND_MASKS, TAPS = 27, 9


@dataclass(frozen=True)
class Repeat:
    """A loop as the source has it.

    Attributes:
        times: iterations of a program, on average.
        longest: iterations of the program that has most; 0: all have as many.
        flop: operations of the products of an iteration, by which unrolled iterations are told.
        loops: the loops in it.
        share: of its iterations, those that execute the code under its conditions.
    """

    times: float
    longest: float = 0
    flop: float = 0
    loops: tuple[Repeat, ...] = ()
    share: float = 1

    @property
    def most(self) -> float:
        """Iterations of the program that has most."""
        return self.longest or self.times

    @property
    def whole_flop(self) -> float:
        """Operations of an iteration, those of the loops in it included."""
        return self.flop + sum(each.times * each.whole_flop for each in self.loops)


@dataclass(frozen=True)
class Asked:
    """Traffic of a launch beside main memory, and its loops."""

    l2_bytes: float
    atomic_bytes: float = 0
    loops: tuple[Repeat, ...] = ()


class Arguments:
    """A launch's arguments and constants by name, fields of tuples as "sampling.values_ptr".

    Attributes:
        l1_bytes: what the first cache has for a program.
    """

    def __init__(self, launch: Launch, l1_bytes: float = 0) -> None:
        self.launch, self.l1_bytes = launch, l1_bytes
        self.named: dict[str, Any] = dict(launch.constants)
        for name, value in zip(launch.kernel.arg_names, launch.arguments, strict=False):
            self.named[name] = value
            if isinstance(value, tuple):
                self.named |= {f"{name}.{field}": each for field, each in value._asdict().items()}  # type: ignore[attr-defined]

    def __getitem__(self, name: str) -> Any:
        return self.named[name]

    def item(self, name: str) -> int:
        """Bytes of an element of a tensor."""
        return int(self[name].itemsize)

    def bytes(self, *names: str) -> float:
        """Bytes of whole tensors."""
        return sum(self[name].numel() * self[name].itemsize for name in names)

    @property
    def programs(self) -> int:
        """Programs of the grid."""
        return prod(self.launch.grid)

    def product(self, rows: int, columns: int, depth: int, float32: bool) -> float:
        """Operations of a program's product as compiled: of float32 factors, maybe by three products of parts."""
        return 2 * rows * columns * depth * (3 if float32 and self["PRECISION"] == "tf32x3" else 1)

    @property
    def tile(self) -> tuple[int, int]:
        """Lines and columns of a tile, of strips where it lies within one."""
        if "places_ptr" in self.named:
            _, _, height, width = self["places_ptr"].shape
            return height, width
        return self["BLOCK_P"] // self["TILE_W"], self["TILE_W"]

    @property
    def memory_bytes(self) -> float:
        """Bytes of all tensors, each once, however many arguments lie in it."""
        largest: dict[int, int] = {}
        for value in self.named.values():
            if isinstance(value, Tensor):
                memory = value.untyped_storage()._cdata
                largest[memory] = max(largest.get(memory, 0), value.numel() * value.itemsize)
        return sum(largest.values())


def _window(arguments: Arguments, taps: int, channels: int, item: int) -> float:
    """Bytes of the pixels that a tile's taps read, neighbours' and taps' once where the first cache holds them."""
    height, width = arguments.tile
    around = 2 * REACH_PX + 1
    one = min(4 * height * width, (height + around) * (width + around))
    if taps == 1:
        return one * channels * item
    parts = 1 + (ON_IN_NEXT if "places_ptr" in arguments.named else 0)
    together = (height + parts * (around + 2)) * (width + around + 2)
    return (together if together * channels * item <= arguments.l1_bytes else taps * one) * channels * item


def _deform_conv_forward(a: Arguments) -> Asked:
    conv, item = a["CONV"], a.item("weight_ptr")
    positions, outputs, block = a["BLOCK_P"], a["BLOCK_O"], min(a["BLOCK_C"], conv.run)
    corners = _window(a, conv.taps, conv.group_in, item)
    weights = outputs * conv.taps * conv.group_in * item
    offsets = conv.taps * 3 * positions * FLOAT
    written = a.bytes("output_ptr", "statistics_ptr")
    runs, blocks = conv.group_in // conv.run, ceil(conv.run / block)
    inner = Repeat(conv.taps * blocks, flop=a.product(positions, outputs, block, item == FLOAT), share=1 / blocks)
    loops = [Repeat(runs, loops=(inner,))]
    if a["HAS_STATISTICS"]:
        loops.append(Repeat(max(1.01, a["piece_count"] / len(a["places_ptr"])), longest=2))
    return Asked(a.programs * (weights + corners + offsets) + written, loops=tuple(loops))


def _deform_conv_backward(a: Arguments) -> Asked:
    conv, item = a["CONV"], a.item("weight_ptr")
    positions, block, outputs = a["BLOCK_P"], min(a["BLOCK_C"], conv.run), a["BLOCK_O"]
    own = conv.in_channels // conv.offset_groups
    channel_blocks, output_blocks = ceil(own / block), ceil(conv.group_out / outputs)
    grads = channel_blocks * positions * conv.group_out * item
    if output_blocks == 1 or a["num_stages"] == 1:  # read again for each block of channels, from the first cache
        grads = positions * conv.group_out * item
    weights = conv.group_out * own * item
    corners = _window(a, 1, own, item) if a["NEEDS_OFFSET"] else 0
    small = 2 * 3 * positions * FLOAT
    rows = a["grad_output_ptr"].numel() / conv.out_channels  # those that a tile has too many add nothing
    adds = a["NEEDS_VALUES"] and not a["WINDOWS"].height  # windows reach as far as samples nearly always lie
    added = 4 * conv.taps * rows * conv.in_channels * a.item("gradients.values_ptr") if adds else 0
    flop = a.product(positions, block, outputs, item == FLOAT)
    share = SHARE_OUTSIDE if a["WINDOWS"].height else 1
    blocks = ceil(conv.run / block)
    if output_blocks == 1:
        loop = Repeat(blocks, flop=flop, share=share)
    else:
        loop = Repeat(blocks, loops=(Repeat(output_blocks, flop=flop),), share=share)
    return Asked(a.programs * (grads + weights + corners + small), added, (Repeat(own // conv.run, loops=(loop,)),))


def _deform_conv_window_backward(a: Arguments) -> Asked:
    conv, item, float32 = a["CONV"], a.item("weight_ptr"), a.item("weight_ptr") == FLOAT
    positions, block, outputs = a["BLOCK_P"], a["BLOCK_C"], a["BLOCK_O"]
    window, output_blocks = a["WINDOWS"].height * a["WINDOWS"].width, ceil(conv.group_out / outputs)
    weights = conv.taps * conv.group_out * min(block, conv.run) * item
    grads = positions * conv.group_out * item * (1 if output_blocks == 1 else conv.taps)
    column, hats = a.product(block, positions, outputs, float32), a.product(window, block, positions, float32)
    inner = () if output_blocks == 1 else (Repeat(output_blocks, flop=column),)
    flop = hats + (column if output_blocks == 1 else 0)
    return Asked(
        a.programs * (weights + grads + conv.taps * 3 * positions * FLOAT),
        a.programs * window * min(block, conv.run) * a.item("gradients.values_ptr"),
        (Repeat(conv.taps, flop=flop, loops=inner),),
    )


def _deform_conv_weight_backward(a: Arguments) -> Asked:
    conv, item = a["CONV"], a.item("grad_output_ptr")
    positions, block, outputs = a["BLOCK_P"], min(a["BLOCK_C"], conv.run), a["BLOCK_O"]
    parts, beside = a.launch.grid[0], prod(a.launch.grid[1:])
    tiles = a["images"] * len(a["sampling.tiles_ptr"])
    each = positions * outputs * item + _window(a, 1, block, item) + 3 * positions * FLOAT
    return Asked(
        tiles * beside * each + a.bytes("grad_weight_ptr"),
        loops=(Repeat(tiles / parts, flop=a.product(outputs, block, positions, item == FLOAT)),),
    )


def _offsets_forward(a: Arguments) -> Asked:
    channels, item, positions, block = a["C_IN"], a.item("values_ptr"), a["BLOCK_P"], a["BLOCK_C"]
    height, width = a.tile
    once = (height + 2 * (1 + ON_IN_NEXT)) * (width + 2)
    read = once if once * block * item <= a.l1_bytes else TAPS * positions
    each = read * channels * item + a.bytes("weight_ptr") + OFFSETS_AND_MASKS * positions * FLOAT
    flop = a.product(positions, 64 if a["SPLIT"] else 32, block, item == FLOAT)
    return Asked(a.programs * each, loops=(Repeat(TAPS * ceil(channels / block), flop=flop),))


def _offsets_split(a: Arguments) -> Asked:
    return Asked(a.bytes("weight_ptr", "split_ptr"))


def _offsets_values_backward(a: Arguments) -> Asked:
    channels, positions = a["BLOCK_C"], a["BLOCK_P"]
    weights = OFFSETS_AND_MASKS * TAPS * channels * a.item("weight_ptr")
    grads = OFFSETS_AND_MASKS * 3 * (positions + 2) * FLOAT  # of three lines, for all taps once
    products = 3 if a["SPLIT"] else 1
    flop = products * a.product(positions, channels, a["BLOCK_O"], not a["SPLIT"])
    return Asked(
        a.programs * (weights + grads) + a.bytes("added_ptr", "grad_values_ptr"),
        loops=(Repeat(ceil(OFFSETS_AND_MASKS * TAPS / a["BLOCK_O"]), flop=flop),),
    )


def _offsets_weight_backward(a: Arguments) -> Asked:
    tiles, levels, (parts, *blocks) = len(a["tiles_ptr"]), len(a["levels_ptr"]), a.launch.grid
    outputs = min(OFFSETS_AND_MASKS, a["BLOCK_O"] // TAPS + 1)
    grads = outputs * 3 * (a["BLOCK_P"] + 2) * FLOAT  # of three lines, for all taps once
    values = a["BLOCK_P"] * a["BLOCK_C"] * a.item("values_ptr")
    products = 2 if a["SPLIT"] else 1
    flop = products * a.product(a["BLOCK_O"], a["BLOCK_C"], a["BLOCK_P"], not a["SPLIT"])
    longest = ceil(tiles / max(1, parts - levels + 1))  # the last part of each level may be a short one
    return Asked(
        tiles * prod(blocks) * (grads + values) + a.bytes("grad_weight_ptr"),
        loops=(Repeat(tiles / parts, longest, flop=flop),),
    )


def _offsets_resize(a: Arguments) -> Asked:
    return Asked(a.programs * 2 * OFFSETS_AND_MASKS * a["BLOCK_P"] * FLOAT)


def _offsets_backward(a: Arguments) -> Asked:
    loops = (Repeat(9),) if a["MODE"] == "resize" else ()
    return Asked(a.bytes("grad_ptr", "sums_ptr", "branch_ptr", "offset_mask_ptr"), loops=loops)


def _attention_moments(a: Arguments) -> Asked:
    places, images = a.launch.grid[0], a.launch.grid[2]
    pieces = a["piece_count"]
    longest = ceil(pieces / 2 / a["BLOCK_T"])  # the finest level's own branch has half of all pieces
    loop = Repeat(pieces / places / a["BLOCK_T"], longest)
    partial = a.bytes("partial_ptr")
    return Asked(partial + partial / 3 + images * places * a["C"] * 3 * FLOAT, loops=(loop, loop))


def _attention_sums(a: Arguments) -> Asked:
    levels, tiles = a.launch.grid[0], a["tile_count"]
    longest = ceil(0.75 * tiles / a["BLOCK_T"])  # the finest level has three quarters of all tiles
    loop = Repeat(tiles / levels / a["BLOCK_T"], longest)
    return Asked(a.bytes("partial_ptr", "sums_ptr"), loops=(loop,))


def _attention_forward(a: Arguments) -> Asked:
    """Every program reads the first matrix and its own rows of the second."""
    sizes, rows = a["SIZES"], a["MATRIX_ROWS"]
    read = sizes.hidden * (sizes.channels + rows) * FLOAT
    return Asked(a.programs * read, loops=(Repeat(ceil(sizes.hidden / rows)),))


def _attention_backward(a: Arguments) -> Asked:
    """Every program reads both matrices; how many rows of them at a time says how often the loop runs."""
    sizes = a["SIZES"]
    loops = (Repeat(ceil(sizes.hidden / a["MATRIX_ROWS"])),)
    return Asked(a.programs * 5 * sizes.hidden * sizes.channels * FLOAT, loops=loops)


def _mix_forward(a: Arguments) -> Asked:
    rows = 11 * a["BLOCK_C"] * FLOAT  # coefficients and means
    return Asked(a.programs * rows + a.bytes("output_ptr", "block.convolved_ptr"))


def _mix_backward(a: Arguments) -> Asked:
    rows = 11 * a["BLOCK_C"] * FLOAT
    tensors = ("grad_mixed_ptr", "grad_output_ptr", "sums_ptr", "block.convolved_ptr")
    return Asked(a.programs * rows + a.bytes(*tensors))


def _mix_branches_backward(a: Arguments) -> Asked:
    """A third of the programs are of the high branch, and gather from a window of the finer level."""
    height, width = a.tile
    fine = (2 * height + a["WINDOW"]) * (2 * width + a["WINDOW"]) * a["BLOCK_C"] * a.item("grad_mixed_ptr")
    window = a["WINDOW"] ** 2
    gathered = a.programs / 12 * fine  # the finest level, three quarters of the tiles, gives nobody's high branch
    rows = a.programs * 5 * a["BLOCK_C"] * FLOAT
    read = a.bytes("grad_convolved_ptr", "block.convolved_ptr", "grad_mixed_ptr")
    return Asked(gathered + rows + read, loops=(Repeat(window / 12, window),))


FORMULAS: dict[str, Callable[[Arguments], Asked]] = {
    "offsets_split": _offsets_split,
    "offsets_forward": _offsets_forward,
    "offsets_resize": _offsets_resize,
    "deform_conv_forward": _deform_conv_forward,
    "attention_moments": _attention_moments,
    "attention_forward": _attention_forward,
    "mix_forward": _mix_forward,
    "mix_backward": _mix_backward,
    "attention_sums": _attention_sums,
    "attention_backward": _attention_backward,
    "mix_branches_backward": _mix_branches_backward,
    "deform_conv_backward": _deform_conv_backward,
    "deform_conv_window_backward": _deform_conv_window_backward,
    "deform_conv_weight_backward": _deform_conv_weight_backward,
    "offsets_backward": _offsets_backward,
    "offsets_weight_backward": _offsets_weight_backward,
    "offsets_values_backward": _offsets_values_backward,
}
"""Formulas by a launch's name."""


def asked(launch: Launch, l1_bytes: float) -> Asked | None:
    """Traffic of a launch, a program having so much of the first cache.

    None for a kernel without a formula, or whose arguments are others than its formula reads.
    """
    formula = FORMULAS.get(launch.name)
    try:
        return None if formula is None else formula(Arguments(launch, l1_bytes))
    except (KeyError, AttributeError):
        return None
