"""The three ways a `high` branch reads offsets that were made for a larger map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..parameters import OffsetMode


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
    scale = _scale(offset, (offset.shape[2], offset.shape[3]), size)
    offset, mask = (F.interpolate(maps, size, mode="bilinear", align_corners=True) for maps in (offset, mask))
    return offset / scale, mask


def high_branch_steering_backward(
    grad_offset: Tensor, grad_mask: Tensor, size: tuple[int, int], mode: OffsetMode
) -> tuple[Tensor, Tensor]:
    """The transpose of `high_branch_steering`: gradients of size (h, w) -> those on level l's `size` (H, W)."""
    height, width = size
    small = (grad_offset.shape[2], grad_offset.shape[3])
    if mode == "resize":
        grad_offset = grad_offset / _scale(grad_offset, size, small)
    grads = []
    for grad in (grad_offset, grad_mask):
        shape = [*grad.shape[:2], height, width]
        if mode == "flat":
            unread = shape[1] * (height * width - small[0] * small[1])
            grads.append(F.pad(grad.flatten(1), (0, unread)).view(shape))
        elif mode == "crop":
            grads.append(F.pad(grad, (0, width - small[1], 0, height - small[0])))
        else:
            grads.append(torch.ops.aten.upsample_bilinear2d_backward(grad, small, shape, align_corners=True))
    return grads[0], grads[1]


def _scale(offset: Tensor, large: tuple[int, int], small: tuple[int, int]) -> Tensor:
    """(18, 1, 1), how many pixels of the large map make one of the small: vertically, horizontally, and so on."""
    return offset.new_tensor([large[0] / small[0], large[1] / small[1]]).repeat(9).view(-1, 1, 1)
