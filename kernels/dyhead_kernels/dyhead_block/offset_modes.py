"""The three ways a `high` branch reads offsets that were made for a larger map."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from dyhead_kernels.dyhead_block.parameters import OffsetMode


def high_branch_steering(
    offset: Tensor, mask: Tensor, size: tuple[int, int], mode: OffsetMode
) -> tuple[Tensor, Tensor]:
    """Offsets and masks of level l, (N, 18, H, W) and (N, 9, H, W), for the branch's output `size` (h, w) of level l+1.

    - "flat": the raw buffer read with the output's h and w, as microsoft/DynamicHead's CUDA kernel and mmcv's operator,
      hence mmdetection, do.
    - "crop": the top left corner.
    - "resize": bilinear, and the offsets divided by the scale H/h, W/w, since they count pixels of a coarser map.
      The corners are aligned because the branch's result is upsampled to level l with aligned corners: each output
      is steered by the offsets of the place it lands on.
    """
    height, width = size
    if mode == "flat":
        return tuple(  # type: ignore[return-value]
            maps.flatten(1)[:, : maps.shape[1] * height * width].unflatten(1, (-1, height, width))
            for maps in (offset, mask)
        )
    if mode == "crop":
        return offset[:, :, :height, :width], mask[:, :, :height, :width]
    scale = offset.new_tensor([offset.shape[2] / height, offset.shape[3] / width]).repeat(9).view(-1, 1, 1)
    offset, mask = (F.interpolate(maps, size, mode="bilinear", align_corners=True) for maps in (offset, mask))
    return offset / scale, mask
