"""The loops of `torch.py`, compiled for the CPU at hand from `native.cpp`, with as many threads as PyTorch.

In float32, or in bfloat16 with sums in float32. On a CPU without instructions for that, bfloat16 is widened.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...compiled import call, library, number
from .sampling import SamplingGrid

if TYPE_CHECKING:
    from .torch import Samples

SOURCE = Path(__file__).with_suffix(".cpp")
CHUNK_BYTES = 4 * 2**20
"""Gradients of columns that exist at a time, in bytes of a thread: they are read again while a cache has them."""
TILE = 96
"""Positions of a tile, as in the source."""
DTYPES = (torch.float32, torch.bfloat16)
"""Dtypes of matrices."""
SIDE = 32
"""Columns of a panel in bfloat16, as in the source."""
BLOCK_CHANNELS = 256
"""Channels whose weights' gradients one thread adds up."""
MOST_PARTS, LEAST_PART = 8, 1536
"""Parts of the positions whose weights' gradients are added up apart, and positions in one: for many cores."""


class Products(IntEnum):
    """How rows are multiplied, as in the source: in float32, or in bfloat16 as dot products of pairs or in tiles."""

    FLOAT32 = 0
    DOTS = 1
    TILES = 2

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of rows, matrix and output."""
        return torch.float32 if self is Products.FLOAT32 else torch.bfloat16


class _Sampling(ctypes.Structure):
    _fields_ = [
        *[
            (name, ctypes.c_void_p)
            for name in ("rows", "offset", "mask", "y", "x", "last_y", "last_x", "line_rows", "start")
        ],
        *[
            (name, ctypes.c_int64)
            for name in (
                "images", "image_rows", "positions", "taps", "channels", "pixel_rows", "offset_image",
                "offset_position", "mask_image", "mask_position", "threads",
            )
        ],
    ]  # fmt: skip


@cache
def bfloat16_products() -> Products:
    """The quickest products that there are here for a matrix in bfloat16."""
    return Products(_number("bfloat16_products"))


def has_products(products: Products) -> bool:
    """Whether this CPU, compiler and process have them."""
    return bool(_number("has_products", products))


def serves(samples: Samples, matrix: Tensor) -> bool:
    """Whether these functions can do it: on a CPU, sampling in float32, with a compiler."""
    return (
        matrix.device.type == "cpu"
        and matrix.dtype in DTYPES
        and samples.offset.dtype == torch.float32
        and library(SOURCE) is not None
    )


def forward(samples: Samples, matrix: Tensor, output: Tensor) -> None:
    """`torch.forward`."""
    if not output.numel():
        return
    if not matrix.shape[1]:
        output.zero_()
        return
    products = _products(matrix)
    sampling, kept = _sampling(samples, products)
    taps, channels = samples.offset.shape[2], samples.rows.shape[1]
    panels = _panels(matrix, taps, channels, products, transposed=False)
    written = output if output.dtype == products.dtype else torch.empty_like(output, dtype=products.dtype)
    _call("deform_conv_forward", products, ctypes.byref(sampling), panels, len(matrix), written)
    if written is not output:
        output.copy_(written)
    del kept


def backward(
    grad_output: Tensor,
    samples: Samples,
    matrix: Tensor,
    grad_rows: Tensor | None,
    offset_needed: bool,
    matrix_needed: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """`torch.backward`."""
    products = _products(matrix)
    sampling, kept = _sampling(samples, products)
    images, positions, taps, _ = samples.offset.shape
    channels, places = samples.rows.shape[1], images * positions
    grad_output = grad_output.to(products.dtype).contiguous()
    new_zeros = samples.offset.new_zeros
    grad_offset = new_zeros(images, positions, taps, 2) if offset_needed else None
    grad_mask = new_zeros(images, positions, taps) if offset_needed and samples.mask is not None else None
    grad_matrix = None
    empty = not (places and matrix.numel())
    if matrix_needed:
        parts = max(1, min(MOST_PARTS, places // LEAST_PART))
        sums = new_zeros(parts, taps, len(matrix), channels)
        if not empty:
            packed = grad_output.new_empty(_number("gradients_size", products, places, len(matrix)))
            sizes = (len(matrix), BLOCK_CHANNELS, parts)
            _call("deform_conv_weight_backward", products, ctypes.byref(sampling), grad_output, *sizes, packed, sums)
        grad_matrix = sums.new_empty(matrix.shape)
        torch.sum(sums, dim=0, out=grad_matrix.view(len(matrix), taps, channels).transpose(0, 1))
    if not empty and (grad_rows is not None or offset_needed):
        panels = _panels(matrix, taps, channels, products, transposed=True)
        threads = torch.get_num_threads()
        chunk = max(TILE, threads * CHUNK_BYTES // (4 * taps * channels) // TILE * TILE)
        chunk = min(chunk, -(-places // TILE) * TILE)
        bags = samples.offset.new_empty(0 if grad_rows is None else chunk * taps * channels)
        stripe = max(1, -(-len(samples.rows) // (4 * threads)))
        grads = (grad_rows, grad_offset, grad_mask)
        _call(
            "deform_conv_backward",
            products,
            ctypes.byref(sampling),
            grad_output,
            panels,
            len(matrix),
            *grads,
            bags,
            chunk,
            stripe,
        )
    del kept
    return grad_offset, grad_mask, grad_matrix


def convolves(rows: Tensor) -> bool:
    """Whether `convolve` is of use: to rows in bfloat16 on a CPU that multiplies in tiles."""
    return (
        rows.device.type == "cpu"
        and rows.dtype == torch.bfloat16
        and library(SOURCE) is not None
        and bfloat16_products() is Products.TILES
    )


def convolve(
    rows: Tensor, images: int, grid: SamplingGrid, matrix: Tensor, products: Products = Products.TILES
) -> Tensor:
    """An ordinary convolution of packed maps in bfloat16 by a matrix in bfloat16 or float32, in float32.

    A float32 matrix is taken as the sum of two in bfloat16, which leaves 2^-18 of each number.

    Args:
        rows: (N * S, C), contiguous.
        grid: P positions of K taps.
        matrix: (C_out, K * C), taps outermost.
        products: by which rows are multiplied.

    Returns:
        (N, P, C_out).
    """
    rounded = matrix.to(torch.bfloat16)
    parts = [rounded] if matrix.dtype == torch.bfloat16 else [rounded, (matrix - rounded).to(torch.bfloat16)]
    step = -(-len(matrix) // SIDE) * SIDE
    both = rounded.new_zeros(len(parts) * step, matrix.shape[1])
    for index, part in enumerate(parts):
        both[index * step : index * step + len(matrix)] = part
    positions, taps = grid.y.shape
    sums = rows.new_empty(images, positions, len(both), dtype=torch.float32)
    if sums.numel():
        rows = rows.to(products.dtype)
        sampling = _structure(rows, None, None, grid, (images, positions, taps), (0, 0, 0, 0))
        panels = _panels(both, taps, rows.shape[1], products, transposed=False)
        _call("deform_conv_forward_float32", products, ctypes.byref(sampling), panels, len(both), sums)
    return sums.unflatten(2, (len(parts), step))[..., : len(matrix)].sum(dim=2)


def _products(matrix: Tensor) -> Products:
    return bfloat16_products() if matrix.dtype == torch.bfloat16 else Products.FLOAT32


def _sampling(samples: Samples, products: Products) -> tuple[_Sampling, list[Tensor]]:
    """The structure, and tensors that have to live as long as it."""
    rows, offset, mask, grid = samples
    rows = rows.to(products.dtype)
    if offset.stride()[2:] != (2, 1):
        offset = offset.contiguous()
    if mask is not None and mask.stride(2) != 1:
        mask = mask.contiguous()
    steps = (*offset.stride()[:2], *((0, 0) if mask is None else mask.stride()[:2]))
    kept = [each for each in (rows, offset, mask) if each is not None]
    return _structure(rows, offset, mask, grid, offset.shape[:3], steps), kept


def _structure(
    rows: Tensor,
    offset: Tensor | None,
    mask: Tensor | None,
    grid: SamplingGrid,
    shape: Sequence[int],
    steps: Sequence[int],
) -> _Sampling:
    images, positions, taps = shape
    tables = (grid.y, grid.x, grid.last_y, grid.last_x, grid.line_rows, grid.start)
    pointers = [None if each is None else each.data_ptr() for each in (rows, offset, mask, *tables)]
    sizes = (images, len(rows) // images if images else 0, positions, taps, rows.shape[1], grid.pixel_rows)
    return _Sampling(*pointers, *sizes, *steps, torch.get_num_threads())


def _panels(matrix: Tensor, taps: int, channels: int, products: Products, transposed: bool) -> Tensor:
    """The matrix (C_out, K * C) as the loops read it."""
    sizes = (channels, len(matrix))
    matrix = matrix.to(products.dtype).contiguous()
    panels = matrix.new_empty(taps * _number("panels_size", products, *(sizes[::-1] if transposed else sizes)))
    _call(
        "deform_conv_pack", products, matrix, len(matrix), taps, channels, transposed, panels, torch.get_num_threads()
    )
    return panels


def _number(function: str, *arguments: int) -> int:
    return number(SOURCE, function, *arguments)


def _call(function: str, *arguments: object) -> None:
    call(SOURCE, function, *arguments)
