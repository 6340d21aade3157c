"""Offsets and masks of a level, and the three ways a `high` branch reads those that were made for a larger map."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..parameters import OFFSETS, TAPS, BlockParameters, OffsetMode


def offsets(level: Tensor, parameters: BlockParameters) -> tuple[Tensor, Tensor]:
    """Offsets (N, 18, H, W), pairs (dy, dx) in pixels, and masks (N, 9, H, W) in 0..1, of a map (N, C_in, H, W)."""
    offset_mask = F.conv2d(level, parameters.offset_weight, parameters.offset_bias, padding=1)
    return offset_mask[:, :OFFSETS], offset_mask[:, OFFSETS:].sigmoid()


def high_branch_offsets(offset: Tensor, mask: Tensor, size: tuple[int, int], mode: OffsetMode) -> tuple[Tensor, Tensor]:
    """Offsets and masks of level l, (N, 18, H, W) and (N, 9, H, W), for the branch's output `size` (h, w) of level l+1.

    - "flat": the raw buffer read with the output's h and w, as microsoft/DynamicHead's CUDA kernel and mmcv's operator,
      hence mmdetection, do.
    - "crop": the top left corner.
    - "resize": bilinear, and the offsets divided by the scale H/h, W/w, since they count pixels of a coarser map.
      The corners are aligned because the branch's result is upsampled to level l with aligned corners: each output
      reads the offsets of the place it lands on.
    """
    height, width = size
    if mode == "flat":
        return tuple(  # type: ignore[return-value]
            maps.flatten(1)[:, : maps.shape[1] * height * width].unflatten(1, (-1, height, width))
            for maps in (offset, mask)
        )
    if mode == "crop":
        return offset[:, :, :height, :width], mask[:, :, :height, :width]
    scale = offset_scale(offset, (offset.shape[2], offset.shape[3]), size)
    offset, mask = (F.interpolate(maps, size, mode="bilinear", align_corners=True) for maps in (offset, mask))
    return offset / scale, mask


def offset_scale(offset: Tensor, large: tuple[int, int], small: tuple[int, int]) -> Tensor:
    """(18, 1, 1), how many pixels of the large map make one of the small: vertically, horizontally, and so on."""
    return offset.new_tensor([large[0] / small[0], large[1] / small[1]]).repeat(TAPS).view(-1, 1, 1)
