"""Levels of a pyramid as one tensor: resized to the median level's size, and back.

`tensor` is (N, L, S, C): N images, L levels, S = H * W positions row by row, C channels; `size` is its (H, W).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import guard_or_false

Size = tuple[int, int]


def median_level(levels: int) -> int:
    """Index of the median of L levels, finest first; of an even number the finer of the middle two, to lose less."""
    return (levels - 1) // 2


def concat_to_median(levels: Sequence[Tensor]) -> tuple[Tensor, Size]:
    """Resize every level to the median one and stack them (Dai et al., section 3.1): the tensor and its size.

    The paper leaves the way of resizing open. Here it is bilinear interpolation, corners not aligned; where a level
    shrinks, its filter is as wide as the step (`antialias`), so that every pixel of a finer level counts.

    Args:
        levels: L maps (N, C, H, W) in order of their sizes, one or more; the sizes need not be halves of each other.

    Returns:
        (N, L, S, C), and (H, W) of the median level. Gradients flow through.

    Raises:
        ValueError: no levels, other images or channels than the first level's, or a level without pixels.
    """
    if not levels:
        raise ValueError("levels is empty, expected one map (N, C, H, W) or more")
    for index, level in enumerate(levels):
        if level.ndim != 4 or level.shape[:2] != levels[0].shape[:2] or 0 in level.shape[2:]:
            like = "(N, C, H, W)" if index == 0 else f"({', '.join(map(str, levels[0].shape[:2]))}, H, W) like level 0"
            raise ValueError(f"level {index} is {tuple(level.shape)}, expected {like}, of one pixel or more")
    height, width = levels[median_level(len(levels))].shape[2:]
    rows = [_resize(level, (height, width)).flatten(2).transpose(1, 2) for level in levels]
    return torch.stack(rows, dim=1), (height, width)


def split_from_median(tensor: Tensor, size: Size, sizes: Sequence[Size]) -> list[Tensor]:
    """The way back to a pyramid, for heads that need one: each level resized to its own size, as in `concat_to_median`.

    Args:
        tensor: (N, L, S, C).
        size: (H, W) of the tensor.
        sizes: (H, W) of each of the L maps (N, C, H, W) to return.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    check_tensor(tensor, size=size)
    if tensor.shape[1] != len(sizes):
        raise ValueError(
            f"sizes has {len(sizes)} entries, expected {tensor.shape[1]}: one for each level of the tensor"
        )
    return [_resize(level, own) for level, own in zip(maps_of(tensor, size).unbind(1), sizes, strict=True)]


def maps_of(tensor: Tensor, size: Size) -> Tensor:
    """(N, L, S, C) -> (N, L, C, H, W), a view in channels-last memory."""
    return tensor.unflatten(2, size).permute(0, 1, 4, 2, 3)


def rows_of(maps: Tensor, levels: int) -> Tensor:
    """(N * L, C, H, W) -> (N, L, S, C)."""
    return maps.flatten(2).transpose(1, 2).unflatten(0, (maps.shape[0] // levels, levels))


def check_tensor(tensor: Tensor, channels: int | None = None, size: Size | None = None) -> None:
    """Raise a ValueError unless `tensor` is (N, L, S, C), with this C and the S of this size where they are given."""
    positions = None if size is None else size[0] * size[1]
    if tensor.ndim != 4 or channels not in (None, tensor.shape[3]) or positions not in (None, tensor.shape[2]):
        shape = f"(N, L, {'S' if positions is None else positions}, {'C' if channels is None else channels})"
        why = "" if size is None else f": S = H * W of {tuple(size)}"
        raise ValueError(f"tensor is {tuple(tensor.shape)}, expected {shape}{why}; see concat_to_median")


def is_known(condition: Any) -> bool:
    """Whether a condition on sizes holds; where they are not known, in a trace for any size, no."""
    return (
        guard_or_false(condition) if isinstance(condition, bool | torch.SymBool) else bool(condition)
    )  # jit's: tensors


def _resize(maps: Tensor, size: Size) -> Tensor:
    if all(is_known(own == wanted) for own, wanted in zip(maps.shape[2:], size, strict=True)):
        return maps  # as resizing would; in a trace, where it depends on a size that is not known, it is resized
    wide = maps.to(torch.promote_types(maps.dtype, torch.float32))  # on CPUs there is no filter of half precision
    return F.interpolate(wide, size, mode="bilinear", align_corners=False, antialias=True).to(maps.dtype)
