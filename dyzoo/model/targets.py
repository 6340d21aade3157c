"""Targets that a detector learns from, and the check that they can be learnt."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TypedDict

import torch
from torch import Tensor

FARTHEST_PX = 1e6  # of an edge from the image's corner: areas and their products stay finite in float32
_TINY_PX = 4  # an image of so few pixels may have all its boxes within one


class _Objects(TypedDict):
    boxes: Tensor  # (M, 4) float, xyxy in pixels of the image given with it
    labels: Tensor  # (M,) int64, indices into the detector's labels


class Target(_Objects, total=False):
    """Ground truth of one image, torchvision's detection convention with labels counted from 0."""

    image_id: int  # of a dataset; no loss reads it


def check_targets(targets: Sequence[Target], image_sizes: Sequence[tuple[int, int]], classes: int) -> None:
    """Refuse what would be learnt as background, or make the loss no number.

    The values of a whole batch are looked at together: tensors on a GPU are waited for once.

    Args:
        targets: boxes and labels of every image.
        image_sizes: (H, W) of every image.
        classes: number of classes.

    Raises:
        ValueError: the shapes do not fit each other, a label is no class, or a box is no number, has no area, lies
            outside of its image, or is given in shares of it; the first is named.
    """
    for index, target in enumerate(targets):
        boxes, labels = target["boxes"], target["labels"]
        if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
            raise ValueError(
                f"target {index} has boxes {tuple(boxes.shape)} and labels {tuple(labels.shape)}, "
                "expected (M, 4) and (M,)"
            )
    device = targets[0]["boxes"].device
    boxes = torch.cat([target["boxes"].detach().to(device, torch.float32) for target in targets])
    labels = torch.cat([target["labels"].to(device) for target in targets])
    counts = [len(target["labels"]) for target in targets]
    if not len(labels):
        return
    of_images = boxes.new_tensor([(width, height) for height, width in image_sizes])
    sizes = of_images.repeat_interleave(torch.tensor(counts, device=device), 0, output_size=len(labels))  # (M, 2)
    known = (labels >= 0) & (labels < classes)
    finite = (boxes.abs() <= FARTHEST_PX).all(1)  # what is no number is not less either
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(1)
    reaches_in = ((boxes[:, 2:] > 0) & (boxes[:, :2] < sizes)).all(1)
    within_one = ((boxes >= 0) & (boxes <= 1)).all(1)
    # A box from 0 to 1 is the pixel in the corner just as well; one of parts of a pixel is nobody's.
    parts = within_one & (boxes[:, 2:] - boxes[:, :2] < 1).any(1) & (sizes > _TINY_PX).all(1)
    in_shares = within_one.all() & parts.any()
    checks = torch.stack([known, finite, has_area, reaches_in], dim=1)  # (M, 4)
    if not bool(in_shares | ~checks.all()):
        return
    number = int((~checks.all(1)).int().argmax()) if not bool(checks.all()) else int(parts.int().argmax())
    ends = list(accumulate(counts))
    owner = bisect_right(ends, number)
    height, width = image_sizes[owner]
    where = f"target {owner} has box {number - ends[owner] + counts[owner]} at {_in_words(boxes[number])}"
    in_pixels = f"expected x1 < x2 and y1 < y2 in pixels of its image, {width} wide and {height} high"
    is_known, is_finite, is_box, _ = checks[number].tolist()
    if not is_known:
        raise ValueError(
            f"target {owner} has the label {int(labels[number])}, expected 0 to {classes - 1}: labels count from 0, "
            "there is no background class"
        )
    if not is_finite:
        raise ValueError(f"{where}, which is infinite, far out or no number: {in_pixels}")
    if bool(in_shares):
        raise ValueError(f"{where}, like all of this batch within 0..1, as shares of an image are: {in_pixels}")
    if not is_box:
        raise ValueError(f"{where}, which has no area: {in_pixels}")
    raise ValueError(f"{where}, outside of its image: {in_pixels}")


def _in_words(box: Tensor) -> str:
    return "(" + ", ".join(f"{edge:.6g}" for edge in box.tolist()) + ")"
