"""Moments and mix, compiled for the CPU at hand from `native.cpp`, with as many threads as PyTorch."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..compiled import call, library, number
from .layout import BranchLayout

SOURCE = Path(__file__).with_suffix(".cpp")


class _Maps(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("high", "mid", "low", "shapes")],
        *[(name, ctypes.c_int64) for name in ("levels", "images", "channels", "threads", "is_bfloat16")],
    ]


def serves(maps: Sequence[Tensor], *others: Tensor) -> bool:
    """Whether these functions can do it: on a CPU, maps in float32 or bfloat16, all others in float32, with a compiler.

    Args:
        maps: high, mid and low, of which mid is not empty, and the output where there is one.
    """
    return (
        all(each.device.type == "cpu" and each.dtype == torch.float32 for each in others)
        and all(each.device.type == "cpu" and each.dtype == maps[0].dtype and each.is_contiguous() for each in maps)
        and maps[0].dtype in (torch.float32, torch.bfloat16)
        and maps[1].numel() > 0
        and library(SOURCE) is not None
    )


def measure(convolved: Sequence[Tensor], layout: BranchLayout, moments: Sequence[Tensor]) -> None:
    """`attention.torch.measure`: mean, variance and mean_change, contiguous, written."""
    maps, shapes = _maps(convolved, layout)
    weights = [layout.upsampling_weights(level, torch.float32, torch.device("cpu")) for level in layout.levels[:-1]]
    pointers = (ctypes.c_void_p * len(layout.levels))(*(each.data_ptr() for each in weights))
    pieces = moments[0].new_empty(number(SOURCE, "piece_count", ctypes.byref(maps)), 4, convolved[1].shape[2])
    call(SOURCE, "block_measure", ctypes.byref(maps), pointers, pieces, *moments)
    del shapes


def mix(
    convolved: Sequence[Tensor], mean: Tensor, coefficients: Sequence[Tensor], layout: BranchLayout, output: Tensor
) -> None:
    """`mix.torch.forward`: of the moments only the mean counts; the output is contiguous."""
    maps, shapes = _maps(convolved, layout)
    rows = [each.contiguous() for each in (mean, *coefficients)]
    call(SOURCE, "block_mix", ctypes.byref(maps), *rows, output)
    del shapes


def _maps(convolved: Sequence[Tensor], layout: BranchLayout) -> tuple[_Maps, ctypes.Array[ctypes.c_int64]]:
    """The structure, and what has to live as long as it besides the maps."""
    sides = [side for shape in layout.shapes for side in shape]
    shapes = (ctypes.c_int64 * len(sides))(*sides)
    images, _, channels = convolved[1].shape
    pointers = [each.data_ptr() for each in convolved]
    address = ctypes.cast(shapes, ctypes.c_void_p)
    is_bfloat16 = convolved[1].dtype == torch.bfloat16
    sizes = (len(layout.shapes), images, channels, torch.get_num_threads(), is_bfloat16)
    return _Maps(*pointers, address, *sizes), shapes
