"""The steps inside a block of the tensor form, as maps of each level; see `steps` for what they are made for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from dyhead_kernels.dyhead_block.parameters import OFFSETS, TAPS
from torch import Tensor

from dyzoo.dyhead.median import Size, concat_to_median, split_from_median
from dyzoo.dyhead.steps import Branch, BranchSteps, LevelSteps
from dyzoo.dyhead.tensor_form import TaskAwareAttention, TensorDyHeadBlock


def median_maps(levels: Sequence[Tensor]) -> list[Tensor]:
    """L maps (N, C, H, W), finest first, as the first block sees them: each resized to the median one's size."""
    return _maps(*concat_to_median(levels))


def tensor_block_steps(block: TensorDyHeadBlock, levels: Sequence[Tensor]) -> list[LevelSteps]:
    """A block as its modules compute it: scale-, then spatial-, then task-aware attention.

    After each of them the tensor is taken apart into the maps of its levels and put together again, which changes no
    number: so each level has maps of its own in the graph.

    An attention that is left out is seen to do nothing: weights of one; one point, the position itself, in the place of
    nine; the lines of a ReLU.

    Args:
        block: of the tensor form.
        levels: L maps (N, C_in, H, W) of one size, that of the median level, finest first; see `median_maps`.
    """
    tensor, size = concat_to_median(levels)
    kappa = tensor.new_ones(tensor.shape[:2])[..., None, None] if block.scale is None else block.scale.kappa(tensor)
    weighed = _maps(block.weighed(tensor), size)
    tensor, _ = concat_to_median(weighed)
    offset, mask = _points(block, tensor, size)
    aggregated = _maps(block.aggregated(tensor, size), size)
    tensor, _ = concat_to_median(aggregated)
    slopes, intercepts = _lines(block, tensor)
    outputs = _maps(block.task(tensor), size)

    steps = []
    for index, maps in enumerate(zip(levels, weighed, aggregated, outputs, strict=True)):
        before, scale, spatial, task = maps
        sources: dict[Branch, range] = {"same": range(index, index + 1)}
        if block.spatial is not None:
            sources.update({"finer": range(index), "coarser": range(index + 1, len(levels))})
        branches = {
            name: BranchSteps({source: kappa[:, source, None] for source in own}, 1, offset, mask)
            for name, own in sources.items()
            if own
        }
        steps.append(
            LevelSteps(
                {"before": [before], "scale": [scale], "spatial": [spatial], "task": [task]},
                branches,
                slopes,
                intercepts,
            )
        )
    return steps


def _maps(tensor: Tensor, size: Size) -> list[Tensor]:
    """(N, L, S, C) -> L maps (N, C, H, W)."""
    return split_from_median(tensor, size, [size] * tensor.shape[1])


def _points(block: TensorDyHeadBlock, tensor: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Offsets (N, 18, H, W) and masks (N, 9, H, W) of the block's spatial-aware attention."""
    if block.spatial is not None:
        return block.spatial.offsets_and_masks(tensor, size)
    mask = tensor.new_zeros(tensor.shape[0], TAPS, *size)
    mask[:, TAPS // 2] = 1
    return tensor.new_zeros(tensor.shape[0], OFFSETS, *size), mask


def _lines(block: TensorDyHeadBlock, tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes and intercepts, (2, N, C, 1, 1) each."""
    if isinstance(block.task, TaskAwareAttention):
        lines = block.task.lines(tensor)
    else:
        one = tensor.new_ones(tensor.shape[0], 1, 1, tensor.shape[3])
        zero = torch.zeros_like(one)
        lines = (one, zero), (zero, zero)
    slopes, intercepts = (torch.stack(numbers)[:, :, 0, 0, :, None, None] for numbers in zip(*lines, strict=True))
    return slopes, intercepts
