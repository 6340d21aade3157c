"""`explain`: a picture through a detector step by step, forward and, for one detection, backward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from dyzoo.dyhead import DyHead, concat_to_median, split_from_median
from dyzoo.dyhead.steps import BranchSteps, LevelSteps, block_steps, follow_back
from dyzoo.dyhead.tensor_steps import median_maps, tensor_block_steps
from dyzoo.errors import ImageError, SettingError
from dyzoo.explain.explanation import Explanation
from dyzoo.explain.parts import BRANCHES, BranchExplained, LevelExplained, check_index
from dyzoo.explain.places import position_at
from dyzoo.images.reading import ImageSource, to_picture
from dyzoo.model.classes import DEFAULT_THRESHOLD
from dyzoo.model.detector import Detector
from dyzoo.model.mode import evaluating
from dyzoo.model.preprocess import batch_images
from dyzoo.model.sizes import Size, padded_size

MOST_PIXELS = 2**21
"""Pixels of the largest network input that is explained, padding included, 2.1 million. Every step of every block is
kept, in float32, until the gradients have come back: on a CPU, a ResNet-50 with six blocks takes 4 GB for a quarter of
a million, and 10 more for each further million."""


def explain(
    model: Any,
    image: ImageSource,
    *,
    block: int | None = None,
    level: int | None = None,
    detection: int | None = None,
    place: tuple[float, float] | None = None,
    threshold: float | Mapping[str, float] = DEFAULT_THRESHOLD,
    size: Size = None,
    classes: Sequence[str] | None = None,
    max_pixels: int | None = None,
    most_pixels: int = MOST_PIXELS,
) -> Explanation:
    """See why a detector found what it found: `PredictingModel.explain`, which says what the arguments are.

    `most_pixels` are those of the largest network input that is not refused, for a service with less memory.
    """
    dyhead = _check_model(model)
    strides = model.config.fpn.strides_px
    for name, index, count in (("block", block, len(dyhead.blocks)), ("level", level, len(strides))):
        if index is not None:
            check_index(name, index, count)
    pipeline = model.pipeline(threshold, size, classes=classes)
    picture = to_picture(image, pipeline.least_size, max_pixels)
    _check_place(place, picture.size)
    given = pipeline.prepare(picture)
    (look,) = given.looks.looks
    height, width = padded_size([look.size], model.config.preprocess.size_divisor)
    if height * width > most_pixels:
        raise ImageError(
            f"the network's input would be {height} x {width} pixels (H x W), expected at most "
            f"{most_pixels / 1e6:.1f} million for an explanation: choose a smaller size"
        )
    pixels = look.pixels()
    with torch.inference_mode(False), torch.enable_grad(), evaluating(model):
        run = _Run(model, dyhead, pixels.clone())
        (found,) = model.head.detect(run.raw, [look.size])
        scores, labels = found["scores"], found["labels"].cpu()
        detections = pipeline.detections(given, [{name: value.detach() for name, value in found.items()}])
        chosen = _choose(detection, len(detections))
        saliency = None
        if chosen is not None:
            kept = (scores.detach().cpu() >= pipeline.settings.thresholds[labels]).nonzero()[:, 0]
            saliency = run.follow_gradient(scores[int(kept[chosen])])[: look.size[0], : look.size[1]]
        blocks = run.explained(strides)
        center_offset = 0.5 if run.is_tensor else getattr(model.config.head, "anchor_center_offset", 0.0)
        strongest = None if chosen is None else _strongest(blocks[-1], center_offset)
        if level is None:
            level = len(strides) // 2 if strongest is None else strongest[0]
        if place is not None:
            place = (place[0] * look.size[1] / picture.size[1], place[1] * look.size[0] / picture.size[0])
        else:
            place = (look.size[1] / 2, look.size[0] / 2) if strongest is None else strongest[1]
        own = blocks[-1][level]
        reach = run.reach(level, position_at(place, own.cell_px, center_offset, own.size))
    return Explanation(
        form=model.config.dyhead.form,
        switched_off=tuple(stage for stage in own.activations if not getattr(model.config.dyhead, stage, True)),
        pixels=pixels.permute(1, 2, 0).contiguous().numpy(),
        detections=detections,
        detection=chosen,
        blocks=blocks,
        block=len(blocks) - 1 if block is None else block,
        level=level,
        place=place,
        center_offset=center_offset,
        saliency=saliency,
        reach=reach,
    )


class _Run:
    """One picture on its way through the network, with all steps of the blocks and the graph behind them.

    Attributes:
        is_tensor: whether the blocks are of the tensor form.
        steps: of each block what it does with each level.
        raw: the predictions of the head.
        gradients: by `id` of a tensor of the blocks, of the score that `follow_gradient` was called with.
    """

    def __init__(self, model: Detector, dyhead: DyHead, pixels: Tensor) -> None:
        batch, _ = batch_images([pixels], model.config.preprocess, model.device, model.dtype)
        self.batch = batch.requires_grad_()
        levels = model.fpn(model.backbone(self.batch))
        sizes = [(level.shape[2], level.shape[3]) for level in levels]
        self.is_tensor = dyhead.config.form == "tensor"
        if self.is_tensor:
            levels = median_maps(levels)
        steps_of: Any = tensor_block_steps if self.is_tensor else block_steps
        self.steps: list[list[LevelSteps]] = []
        for block in dyhead.blocks:
            self.steps.append(steps_of(block, levels))
            levels = [step.output for step in self.steps[-1]]
            if not all(bool(level.isfinite().all()) for level in levels):
                name = f"block {len(self.steps) - 1}"
                raise SettingError(f"{name} gives numbers that are not finite, expected sound weights: load others")
        if self.is_tensor:
            levels = split_from_median(*concat_to_median(levels), sizes)
        self.raw = model.forward_head(levels)
        self.gradients: dict[int, Tensor] = {}

    def follow_gradient(self, score: Tensor) -> np.ndarray:
        """Take the gradient of a score to all that the blocks compute; (h, w), its norm at each pixel."""
        steps = [step for block in self.steps for step in block]
        tensors = {id(tensor): tensor for step in steps for maps in step.stages.values() for tensor in maps}
        pixels, *others = torch.autograd.grad(score, [self.batch, *tensors.values()], materialize_grads=True)
        self.gradients = dict(zip(tensors, others, strict=True))
        return _array(torch.linalg.vector_norm(pixels[0], dim=0))

    def explained(self, strides_px: Sequence[int]) -> tuple[tuple[LevelExplained, ...], ...]:
        """The numbers of each block and level."""
        return tuple(
            tuple(self._level(step, stride_px) for step, stride_px in zip(steps, strides_px, strict=True))
            for steps in self.steps
        )

    def reach(self, level: int, position: tuple[int, int]) -> tuple[tuple[np.ndarray, ...], ...]:
        """`Explanation.reach` of a position (row, column) of a level."""
        shares = [torch.zeros_like(step.output[0, 0].detach()) for step in self.steps[-1]]
        shares[level][position] = 1
        found: list[tuple[np.ndarray, ...]] = []
        for steps in reversed(self.steps):
            shares = follow_back(steps, shares)
            found.append(tuple(_array(share) for share in shares))
        return tuple(reversed(found))

    def _level(self, step: LevelSteps, stride_px: int) -> LevelExplained:
        height, width = self.batch.shape[2:]
        rows, columns = step.output.shape[2:]
        return LevelExplained(
            stride_px=stride_px,
            cell_px=(height / rows, width / columns) if self.is_tensor else (stride_px, stride_px),
            activations={stage: _array(tensor[0].abs().mean(dim=0)) for stage, tensor in step.maps.items()},
            attributions={stage: self._attribution(tensors) for stage, tensors in step.stages.items()}
            if self.gradients
            else None,
            branches={name: _branch(step.branches[name]) for name in BRANCHES if name in step.branches},
            slopes=_array(step.slopes[:, 0, :, 0, 0]),
            intercepts=_array(step.intercepts[:, 0, :, 0, 0]),
            first_share=_array(step.takes_first[0].float().mean(dim=(1, 2))),
        )

    def _attribution(self, tensors: Sequence[Tensor]) -> np.ndarray:
        """(H, W), the norm of gradient times value over the channels of all these maps (1, C, H, W)."""
        products = torch.cat([(self.gradients[id(tensor)] * tensor)[0] for tensor in tensors])
        return _array(torch.linalg.vector_norm(products, dim=0))


def _branch(branch: BranchSteps) -> BranchExplained:
    offsets, masks = _array(branch.offset[0]), _array(branch.mask[0])
    return BranchExplained(
        weights={source: float(weight.detach()) for source, weight in branch.weights.items()},
        stride=branch.stride,
        offsets=offsets.reshape(len(masks), 2, *masks.shape[1:]),
        masks=masks,
    )


def _strongest(levels: Sequence[LevelExplained], center_offset: float) -> tuple[int, tuple[float, float]] | None:
    """The level and the place (x, y) in pixels where the blocks' result counts the most; None: nothing counts."""
    maps = [cast(Any, level.attributions)["task"] for level in levels]
    level = max(range(len(maps)), key=lambda index: float(maps[index].max()))
    row, column = divmod(int(maps[level].argmax()), maps[level].shape[1])
    height_px, width_px = levels[level].cell_px
    place = ((column + center_offset) * width_px, (row + center_offset) * height_px)
    return (level, place) if maps[level].max() > 0 else None


def _choose(detection: int | None, count: int) -> int | None:
    """The detection to explain: the best one if none is named, None if there is none."""
    if detection is None:
        return 0 if count else None
    if not count:
        raise SettingError(f"detection is {detection!r}, but nothing was found: lower the threshold")
    return check_index("detection", detection, count)


def _check_model(model: Any) -> DyHead:
    """The blocks. Raises `SettingError`: the model has none that can be explained."""
    if not isinstance(model, Detector):
        raise SettingError(
            f"{getattr(model, 'name', type(model).__name__)}: an ONNX file cannot be explained, as its inside is not "
            "at hand: load the detector that it was exported from"
        )
    if not model.dyhead.blocks:
        raise SettingError("the detector has no DyHead blocks, expected at least one")
    if model.dtype not in (torch.float32, torch.float64):
        raise SettingError(f"the weights are {model.dtype}, expected float32: call model.float() first")
    return model.dyhead


def _check_place(place: Any, size: tuple[int, int]) -> None:
    if place is None:
        return
    height, width = size
    try:
        x, y = map(float, place)
    except (TypeError, ValueError):
        raise SettingError(f"place is {place!r}, expected (x, y) in pixels of the picture") from None
    if not (0 <= x <= width and 0 <= y <= height):
        raise SettingError(f"place is ({x:g}, {y:g}), expected a place in the picture of {width} x {height} pixels")


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()
