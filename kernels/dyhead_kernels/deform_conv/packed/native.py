"""The loops of `torch.py`, compiled for the CPU at hand from `native.cpp`: float32, with as many threads as PyTorch."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...compiled import call, library

if TYPE_CHECKING:
    from .torch import Samples

SOURCE = Path(__file__).with_suffix(".cpp")
CHUNK_BYTES = 4 * 2**20
"""Gradients of columns that exist at a time, in bytes of a thread: they are read again while a cache has them."""
TILE = 96
"""Positions of a tile, as in the source."""
BLOCK_CHANNELS = 256
"""Channels whose weights' gradients one thread adds up."""
MOST_PARTS, LEAST_PART = 8, 1536
"""Parts of the positions whose weights' gradients are added up apart, and positions in one: for many cores."""


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


def serves(samples: Samples, matrix: Tensor) -> bool:
    """Whether these functions can do it: on a CPU, in float32 throughout, with a compiler."""
    tensors = (samples.rows, samples.offset, matrix)
    return all(each.device.type == "cpu" and each.dtype == torch.float32 for each in tensors) and (
        library(SOURCE) is not None
    )


def forward(samples: Samples, matrix: Tensor, output: Tensor) -> None:
    """`torch.forward`."""
    if not output.numel():
        return
    if not matrix.shape[1]:
        output.zero_()
        return
    sampling, kept = _sampling(samples)
    panels = _panels(matrix, samples, transposed=False)
    _call("deform_conv_forward", ctypes.byref(sampling), panels, len(matrix), output)
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
    sampling, kept = _sampling(samples)
    images, positions, taps, _ = samples.offset.shape
    channels, places = samples.rows.shape[1], images * positions
    grad_output = grad_output.contiguous()
    grad_offset = samples.offset.new_zeros(images, positions, taps, 2) if offset_needed else None
    grad_mask = (
        samples.offset.new_zeros(images, positions, taps) if offset_needed and samples.mask is not None else None
    )
    grad_matrix = None
    empty = not (places and matrix.numel())
    if matrix_needed:
        parts = max(1, min(MOST_PARTS, places // LEAST_PART))
        sums = matrix.new_zeros(parts, matrix.shape[1], len(matrix))
        if not empty:
            packed = matrix.new_empty(-(-places // TILE) * TILE * _padded(len(matrix)))
            sizes = (len(matrix), BLOCK_CHANNELS, parts)
            _call("deform_conv_weight_backward", ctypes.byref(sampling), grad_output, *sizes, packed, sums)
        grad_matrix = sums.sum(dim=0).t()
    if not empty and (grad_rows is not None or offset_needed):
        panels = _panels(matrix, samples, transposed=True)
        threads = torch.get_num_threads()
        chunk = max(TILE, threads * CHUNK_BYTES // (4 * taps * channels) // TILE * TILE)
        chunk = min(chunk, -(-places // TILE) * TILE)
        bags = matrix.new_empty(0 if grad_rows is None else chunk * taps * channels)
        stripe = max(1, -(-len(samples.rows) // (4 * threads)))
        grads = (grad_rows, grad_offset, grad_mask)
        _call(
            "deform_conv_backward",
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


def _sampling(samples: Samples) -> tuple[_Sampling, list[Tensor]]:
    """The structure, and tensors that have to live as long as it."""
    rows, offset, mask, grid = samples
    if offset.stride()[2:] != (2, 1):
        offset = offset.contiguous()
    if mask is not None and mask.stride(2) != 1:
        mask = mask.contiguous()
    images, positions, taps, _ = offset.shape
    tables = (grid.y, grid.x, grid.last_y, grid.last_x, grid.line_rows, grid.start)
    pointers = [None if each is None else each.data_ptr() for each in (rows, offset, mask, *tables)]
    sizes = (images, len(rows) // images if images else 0, positions, taps, rows.shape[1], grid.pixel_rows)
    steps = (*offset.stride()[:2], *((0, 0) if mask is None else mask.stride()[:2]))
    kept = [each for each in (rows, offset, mask) if each is not None]
    return _Sampling(*pointers, *sizes, *steps, torch.get_num_threads()), kept


def _panels(matrix: Tensor, samples: Samples, transposed: bool) -> Tensor:
    """The matrix (C_out, K * C) as the loops read it."""
    taps, channels = samples.offset.shape[2], samples.rows.shape[1]
    columns, depth = (channels, len(matrix)) if transposed else (len(matrix), channels)
    panels = matrix.new_empty(taps * depth * _padded(columns))
    pair = (None, panels) if transposed else (panels, None)
    _call("pack_matrix", matrix.contiguous(), len(matrix), taps, channels, *pair, torch.get_num_threads())
    return panels


def _padded(columns: int) -> int:
    """So many columns in whole panels."""
    compiled = library(SOURCE)
    assert compiled is not None
    compiled.panel_width.restype = ctypes.c_int64
    return -(-columns // compiled.panel_width()) * int(compiled.panel_width())


def _call(function: str, *arguments: object) -> None:
    call(SOURCE, function, *arguments)
