"""Services to every launch: parameters, precision, the device, parts of a long sum."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..device_cache import DeviceCache
from .tables import PART, int_table
from .tuning import launch_parameters

SMALLEST_BLOCK = 16
"""Least side of a block in a matrix product."""

MOST_PROGRAMS = 65_535
"""Programs along the second and the third axis of a CUDA grid; images are on one of them."""

MOST_PARTS = 12
"""Parts into which the tiles of one gradient sum are divided; with taps and channel blocks they fill a GPU."""


def parameters(kernel: str, like: Tensor) -> dict[str, int]:
    """Launch parameters for maps like `like`; a dict of the caller's own."""
    return launch_parameters(kernel, like.dtype, like.device)


def block_size(tuned: int, size: int) -> int:
    """The tuned block, or the smallest one that holds all there is."""
    return min(tuned, power_of_two(size))


def power_of_two(size: int) -> int:
    """The smallest block of at least `size`."""
    return max(SMALLEST_BLOCK, 1 << (size - 1).bit_length())


def dot_precision(exact: bool = False) -> str:
    """Precision of products of float32: TF32 where PyTorch's matrix products may, else by three of them.

    Three TF32 products carry 21 bits of each factor, as good as float32 sums of products are, and run on matrix units;
    AMD's have float32 of their own. `exact`: never by a single TF32 product, for what moves sampling positions.
    """
    if torch.version.hip is not None:
        return "ieee"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" and not exact else "tf32x3"


class Launch(NamedTuple):
    """A launch that was asked for. Arguments are tensors, integers and named tuples of those."""

    kernel: Any
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    grid: tuple[int, ...]

    @property
    def name(self) -> str:
        """`mix_forward` of `_mix_forward_kernel`."""
        return str(self.kernel.fn.__name__).removeprefix("_").removesuffix("_kernel")


_recorded: list[Launch] | None = None


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """Collect launches instead of running them: with meta tensors no device is needed."""
    global _recorded
    _recorded, before = [], _recorded
    try:
        yield _recorded
    finally:
        _recorded = before


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Run `kernel` on the device of its first argument, a tensor; nothing for an empty grid."""
    if 0 in grid:
        return
    if _recorded is not None:
        _recorded.append(Launch(kernel, arguments, constants, grid))
        return
    if max(grid[1:], default=0) > MOST_PROGRAMS:
        raise ValueError(
            f"a batch of {grid[-1]} is more than a launch can hold, expected {MOST_PROGRAMS} or fewer images"
        )
    device = arguments[0].device
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[grid](*arguments, **constants)


@dataclass(frozen=True, eq=False)
class Parts:
    """A sum over tiles in parts.

    Attributes:
        table: (parts, 4) int32, the columns of `PART`.
        of_group: the parts of each group.
    """

    table: Tensor
    of_group: tuple[slice, ...]


def parts_table(cache: DeviceCache, groups: tuple[tuple[int, int], ...], images: int, most: int = MOST_PARTS) -> Parts:
    """Divide the tiles (first, end) of each group, over all images, into some `most` parts of about the same length."""
    return cache.made((parts_table, groups, images, most), lambda: _parts_table(cache, groups, images, most))


def _parts_table(cache: DeviceCache, groups: tuple[tuple[int, int], ...], images: int, most: int) -> Parts:
    total = images * sum(end - first for first, end in groups)
    length = max(1, -(-total // most))
    rows: list[tuple[int, int, int, int]] = []
    of_group = []
    for first, end in groups:
        start, count = len(rows), images * (end - first)
        parts = -(-count // length)
        bounds = [count * part // parts for part in range(parts + 1)] if parts else [0]
        rows += ((first, max(1, end - first), low, high) for low, high in pairwise(bounds))
        of_group.append(slice(start, len(rows)))
    return Parts(int_table(cache, rows, len(PART)), tuple(of_group))
