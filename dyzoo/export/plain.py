"""Our operators step by step in PyTorch's and torchvision's: what a program needs that is loaded without dyzoo.

Each has the arguments of the operator that it takes the place of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import deform_conv2d, nms, roi_align

from dyzoo.dyhead.block import NORM_GROUPS
from dyzoo.dyhead.levelwise import DEFORM_CONV, Branch, LevelwiseParameters, levelwise_block
from dyzoo.export.options import DeformConv
from dyzoo.export.regions import pool_regions
from dyzoo.export.windows import attend_in_windows, window_attention
from dyzoo.model.boxes import add_to_ends
from dyzoo.model.heads.fixed_size import NO_LABEL, suppress_to_fixed_size
from dyzoo.model.heads.roi import assign_levels

TAPS = 9
OFFSETS = 2 * TAPS
Convolve = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None, int], Tensor]


def decompositions(form: DeformConv) -> dict[Any, Any]:
    """Operator -> its steps, as `ExportedProgram.run_decompositions` takes them."""
    convolve = convolution(form)

    def dyhead_block(levels: list[Tensor], parameters: list[Tensor], offset_mode: str) -> list[Tensor]:
        return block_of_levels(convolve, levels, LevelwiseParameters.from_list(parameters), offset_mode)

    def deform_conv(
        input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, mask: Tensor, stride: list[int], *rest: Any
    ) -> Tensor:
        return convolve(input, offset, mask, weight, bias, stride[0])

    return {
        levelwise_block._opoverload: dyhead_block,
        DEFORM_CONV: deform_conv,
        suppress_to_fixed_size._opoverload: suppress,
        pool_regions._opoverload: pool_levels_of_batch,
        window_attention._opoverload: attend_in_windows,
    }


def convolution(form: DeformConv) -> Convolve:
    """The 3x3 deformable convolution with a padding of one, in that form."""
    return _deform_conv if form == "node" else _deform_conv_of_samples


def block_of_levels(
    convolve: Convolve, levels: Sequence[Tensor], own: LevelwiseParameters, offset_mode: str
) -> list[Tensor]:
    """One block over levels (N, C_in, H, W), finest first: (N, C, H, W) each."""
    outputs = []
    for index, level in enumerate(levels):
        both = F.conv2d(level, own.offset_weight, own.offset_bias, padding=1)
        offset, mask = both[:, :OFFSETS], both[:, OFFSETS:].sigmoid()
        maps = [_branch(convolve, level, offset, mask, own.mid, 1)]
        if index > 0:
            maps.append(_branch(convolve, levels[index - 1], offset, mask, own.low, 2))
        if index < len(levels) - 1:
            coarser = levels[index + 1]
            high = _branch(convolve, coarser, *_high_branch_offsets(offset, mask, coarser, offset_mode), own.high, 1)
            maps.append(_resize(high, level))
        mixed = sum((each * _scale_attention(each, own) for each in maps[1:]), maps[0] * _scale_attention(maps[0], own))
        outputs.append(_dynamic_relu(mixed / len(maps), own))
    return outputs


def _branch(convolve: Convolve, input: Tensor, offset: Tensor, mask: Tensor, branch: Branch, stride: int) -> Tensor:
    convolved = convolve(input, offset, mask, branch.weight, branch.bias, stride)
    return torch.group_norm(convolved, NORM_GROUPS, branch.norm_weight, branch.norm_bias)


def _high_branch_offsets(offset: Tensor, mask: Tensor, coarser: Tensor, mode: str) -> tuple[Tensor, Tensor]:
    height, width = coarser.shape[2:]
    if mode == "flat":
        return _read_flat(offset, height, width), _read_flat(mask, height, width)
    if mode == "crop":
        return offset[:, :, :height, :width], mask[:, :, :height, :width]
    scale = torch.stack(
        [torch.scalar_tensor(height) / offset.shape[2], torch.scalar_tensor(width) / offset.shape[3]]
    ).to(offset)
    return _resize(offset, coarser) * scale.repeat(TAPS).view(1, OFFSETS, 1, 1), _resize(mask, coarser)


def _read_flat(maps: Tensor, height: int, width: int) -> Tensor:
    channels = maps.shape[1]
    return maps.flatten(1)[:, : channels * height * width].reshape(-1, channels, height, width)


def _resize(maps: Tensor, like: Tensor) -> Tensor:
    """Bilinear with aligned corners: `interpolate` asks whether a size is 1, which is not known."""
    for axis in (2, 3):
        last = maps.shape[axis] - 1
        wanted = torch.arange(like.shape[axis], device=maps.device)
        steps = torch.scalar_tensor(like.shape[axis] - 1).clamp(min=1)
        positions: Tensor = wanted * (torch.scalar_tensor(last) / steps).to(maps.device)
        before = positions.long()
        share = (positions - before).to(maps.dtype)
        low, high = (maps.index_select(axis, place.clamp(max=last)) for place in (before, before + 1))
        maps = low + (high - low) * (share[:, None] if axis == 2 else share)
    return maps


def _scale_attention(maps: Tensor, own: LevelwiseParameters) -> Tensor:
    pooled = maps.mean(dim=(2, 3), keepdim=True)
    return F.hardsigmoid(F.conv2d(pooled, own.scale_weight.view(1, -1, 1, 1), own.scale_bias).relu())


def _dynamic_relu(features: Tensor, own: LevelwiseParameters) -> Tensor:
    hidden = F.linear(features.mean(dim=(2, 3)), own.relu_weight1, own.relu_bias1).relu()
    theta = F.hardsigmoid(F.linear(hidden, own.relu_weight2, own.relu_bias2))
    a1, b1, a2, b2 = theta[:, :, None, None].chunk(4, dim=1)
    return torch.maximum(features * (2 * a1) + (b1 - 0.5), features * (2 * a2 - 1) + (b2 - 0.5))


def _deform_conv(
    input: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, stride: int
) -> Tensor:
    return cast(Tensor, deform_conv2d(input, offset, weight, bias, stride, padding=1, mask=mask))


def _deform_conv_of_samples(
    input: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, stride: int
) -> Tensor:
    """As `dyzoo.export.translation` has it: nine samples for each output, then a 1x1 convolution."""
    number, _, height, width = offset.shape
    moved = offset.unflatten(1, (TAPS, 2))  # (N, 9, 2, H, W)
    tap = torch.arange(TAPS, device=input.device)
    y, x = (
        torch.arange(length, device=input.device).view(shape) * stride + steps.view(TAPS, 1, 1) - 1 + moved[:, :, axis]
        for axis, (length, shape, steps) in enumerate(((height, (1, -1, 1), tap // 3), (width, (1, 1, -1), tap % 3)))
    )
    grid = torch.stack([(2 * x + 1) / input.shape[3] - 1, (2 * y + 1) / input.shape[2] - 1], dim=4)
    grid = grid.reshape(number, TAPS * height, width, 2)
    samples = F.grid_sample(input, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    weighted = samples.unflatten(2, (TAPS, height)) * mask[:, None]
    return F.conv2d(weighted.flatten(1, 2), weight.flatten(1)[:, :, None, None], bias)


def pool_levels_of_batch(features: list[Tensor], boxes_xyxy: Tensor, strides_px: list[int], roi_size: int) -> Tensor:
    """`pool_regions`, with the number of pictures not known."""
    flat = boxes_xyxy.flatten(0, 1)
    image = torch.arange(flat.shape[0], device=flat.device) // boxes_xyxy.shape[1]
    regions = torch.cat([image[:, None].to(flat.dtype), flat], dim=1)
    levels = assign_levels(flat, strides_px)
    pooled = flat.new_zeros(flat.shape[0], features[0].shape[1], roi_size, roi_size)
    for level, stride_px in enumerate(strides_px):
        own = (levels == level).nonzero()[:, 0]
        of_level = roi_align(features[level], regions[own], roi_size, 1 / stride_px, 0, aligned=True)
        pooled = pooled.index_copy(0, own, of_level)
    return pooled


def suppress(
    boxes_xyxy: Tensor,
    scores: Tensor,
    labels: Tensor,
    present: Tensor,
    image_sizes: Tensor,
    clip_before_nms: bool,
    nms_threshold: float,
    max_detections: int,
    inclusive_corners: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`suppress_to_fixed_size` with one call of `nms` for all images and classes.

    Images and classes lie apart from each other in it, in float64, so that no box is rounded by where it lies.
    """
    # (w, h, w, h), not by indices: torch 2.11 forgets constants that a decomposition makes
    limits = image_sizes.flip(1).repeat(1, 2).to(boxes_xyxy)[:, None]
    if inclusive_corners:
        boxes_xyxy, limits = add_to_ends(boxes_xyxy, -1.0), limits - 1
    if clip_before_nms:
        boxes_xyxy = _clip(boxes_xyxy, limits)
        present = present & _has_area(boxes_xyxy)
    scores = scores.masked_fill(~present, -torch.inf)
    kept = scores.masked_fill(~_survivors(boxes_xyxy, scores, labels, present, nms_threshold), -torch.inf)
    best, order = kept.sort(dim=1, descending=True, stable=True)
    best, order = best[:, :max_detections], order[:, :max_detections]
    boxes, classes = _clip(boxes_xyxy.gather(1, order[:, :, None].expand(-1, -1, 4)), limits), labels.gather(1, order)
    if not clip_before_nms:  # what lies in the padding makes room
        best, order = best.masked_fill(~_has_area(boxes), -torch.inf).sort(dim=1, descending=True, stable=True)
        boxes, classes = boxes.gather(1, order[:, :, None].expand(-1, -1, 4)), classes.gather(1, order)
    if inclusive_corners:
        boxes = add_to_ends(boxes, 1.0)
    found = best > -torch.inf
    missing: Any = torch.sym_max(max_detections - best.shape[1], 0)
    return (
        F.pad(boxes.masked_fill(~found[:, :, None], 0.0), (0, 0, 0, missing)),
        F.pad(best.masked_fill(~found, 0.0), (0, missing)),
        F.pad(classes.masked_fill(~found, NO_LABEL), (0, missing), value=NO_LABEL),
        found.sum(dim=1),
    )


def _survivors(boxes: Tensor, scores: Tensor, labels: Tensor, present: Tensor, threshold: float) -> Tensor:
    """Which of (N, T) candidates are left."""
    exact = boxes.double()
    step = exact.max() - exact.min() + 1
    image = torch.arange(boxes.shape[0], device=boxes.device)[:, None]
    apart = (image * (labels.max() + 1) + labels) * step
    chosen = nms((exact + apart[:, :, None]).flatten(0, 1), scores.double().flatten(), threshold)
    left = torch.zeros_like(scores, dtype=torch.bool).flatten().index_fill(0, chosen, True)
    return left.view_as(scores) & present


def _clip(boxes: Tensor, limits: Tensor) -> Tensor:
    return boxes.clamp(min=0).minimum(limits)


def _has_area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
