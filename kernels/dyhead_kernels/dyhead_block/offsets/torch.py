"""Offsets and masks in plain PyTorch: one convolution a level, read by three branches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...deform_conv.packed import native
from ...deform_conv.packed.torch import Samples
from ...pyramid import Pyramid
from ..layout import BRANCHES, HIGH, LOW, MID, BranchLayout
from ..parameters import OFFSETS, TAPS, BlockParameters, OffsetMode
from .reference import high_branch_offsets, offset_scale


def forward(values: Tensor, parameters: BlockParameters, layout: BranchLayout, offset_mask: Tensor) -> None:
    """Offsets and masks of every position of `values` (N, S, C_in), contiguous, written to `offset_mask` (N, S, 27).

    The offset convolution stays in float32 under autocast: offsets rounded to bfloat16 move the sampling positions, and
    a block's gradients with them by a tenth.
    """
    weight, bias = parameters.offset_weight, parameters.offset_bias.to(offset_mask.dtype)
    if offset_mask.dtype == torch.float32 and native.convolves(values):
        grid = layout.grid(MID, offset_mask.dtype, values.device)
        matrix = weight.permute(0, 2, 3, 1).flatten(1)
        torch.add(native.convolve(values.flatten(0, 1), len(values), grid, matrix), bias, out=offset_mask)
    else:
        maps, weight = values.to(offset_mask.dtype), weight.to(offset_mask.dtype)
        levels = zip(Pyramid(maps, layout.shapes).levels(), Pyramid(offset_mask, layout.shapes).levels(), strict=True)
        for level, offset_mask_level in levels:
            offset_mask_level.copy_(F.conv2d(level, weight, bias, padding=1))
    offset_mask[..., OFFSETS:].sigmoid_()


def backward(
    grad_logits: Tensor,
    maps: Tensor,
    parameters: BlockParameters,
    layout: BranchLayout,
    grad_maps: Tensor | None,
    parameters_needed: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the offset convolution's weight and bias; that of `maps` is added to `grad_maps` if there is one."""
    weight = parameters.offset_weight.to(maps.dtype)
    needs = [grad_maps is not None, parameters_needed, parameters_needed]
    levels = Pyramid(maps, layout.shapes).levels()
    grad_levels = [None] * len(levels) if grad_maps is None else Pyramid(grad_maps, layout.shapes).levels()
    total_weight, total_bias = torch.zeros_like(weight), weight.new_zeros(len(weight))
    for level, grad_level, grad in zip(levels, grad_levels, Pyramid(grad_logits, layout.shapes).levels(), strict=True):
        grad_input, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad, level, weight, [len(weight)], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, needs
        )
        if grad_level is not None:
            grad_level.add_(grad_input)
        if parameters_needed:
            total_weight.add_(grad_weight)
            total_bias.add_(grad_bias)
    if not parameters_needed:
        return None, None
    return total_weight.to(parameters.offset_weight.dtype), total_bias.to(parameters.offset_bias.dtype)


def branch_samples(values: Tensor, offset_mask: Tensor, layout: BranchLayout, mode: OffsetMode) -> list[Samples]:
    """Samples of `values` (N, S, C_in), contiguous, that the branches high, mid and low take."""
    offset, mask = (Pyramid(part, layout.shapes) for part in (offset_mask[..., :OFFSETS], offset_mask[..., OFFSETS:]))
    high = [(offset.values[:, :0], mask.values[:, :0])]
    for level in layout.levels[:-1]:
        pair = high_branch_offsets(offset.level(level), mask.level(level), layout.shapes[level + 1], mode)
        high.append((_packed(pair[0]), _packed(pair[1])))
    high_offset, high_mask = (torch.cat(parts, dim=1) for parts in zip(*high, strict=True))
    coarser = slice(offset.starts[1], None)
    branches = {
        HIGH: (high_offset, high_mask),
        MID: (offset.values, mask.values),
        LOW: (offset.values[:, coarser], mask.values[:, coarser]),
    }
    rows = values.flatten(0, 1)
    return [
        Samples(rows, offset.unflatten(-1, (TAPS, 2)), mask, layout.grid(branch, offset.dtype, values.device))
        for branch, (offset, mask) in ((branch, branches[branch]) for branch in BRANCHES)
    ]


def branch_samples_backward(
    grads: list[tuple[Tensor, Tensor]], offset_mask: Tensor, layout: BranchLayout, mode: OffsetMode
) -> Tensor:
    """Gradients of each branch's offsets (N, P, 18) and masks (N, P, 9) -> of the offset convolution (N, S, 27)."""
    total = torch.cat(grads[MID], dim=-1)
    total[:, layout.starts[1] :] += torch.cat(grads[LOW], dim=-1)
    levels, sizes = Pyramid(total, layout.shapes).levels(), [h * w for h, w in layout.shapes[1:]]
    high = zip(*(grad.split(sizes, dim=1) for grad in grads[HIGH]), strict=True)
    for level, (grad_offset, grad_mask) in enumerate(high):
        small = [grad.unflatten(1, layout.shapes[level + 1]).permute(0, 3, 1, 2) for grad in (grad_offset, grad_mask)]
        grad_offset, grad_mask = high_branch_offsets_backward(small[0], small[1], layout.shapes[level], mode)
        levels[level][:, :OFFSETS] += grad_offset
        levels[level][:, OFFSETS:] += grad_mask
    mask = offset_mask[..., OFFSETS:]
    total[..., OFFSETS:] *= mask * (1 - mask)
    return total


def high_branch_offsets_backward(
    grad_offset: Tensor, grad_mask: Tensor, size: tuple[int, int], mode: OffsetMode
) -> tuple[Tensor, Tensor]:
    """The transpose of `high_branch_offsets`: gradients of size (h, w) -> those on level l's `size` (H, W)."""
    height, width = size
    small = (grad_offset.shape[2], grad_offset.shape[3])
    if mode == "resize":
        grad_offset = grad_offset / offset_scale(grad_offset, size, small)
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


def _packed(maps: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H * W, C)."""
    return maps.flatten(2).transpose(1, 2)
