"""Detection in a picture and its mirror images, merged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from dyzoo.errors import SettingError
from dyzoo.model.heads.base import Detected, Limits
from dyzoo.model.heads.dense import suppress

Flip = Literal["horizontal", "vertical"]
Network: TypeAlias = Callable[[Sequence[Tensor]], list[Detected]]
"""Gives for pictures (3, h, w) what it detects in each, in their pixels."""

_FLIPPED_DIMENSION: dict[Flip, int] = {"horizontal": -1, "vertical": -2}  # of a picture (3, H, W)


def check_flips(flips: Any) -> tuple[Flip, ...]:
    """The flips, each once. Raises `ValueError`: there is no such flip."""
    if isinstance(flips, str) or any(flip not in get_args(Flip) for flip in flips):
        raise SettingError(f"flips is {flips!r}, expected a list with 'horizontal', 'vertical' or both")
    return tuple(dict.fromkeys(flips))


def detect_in_views(
    network: Network, pictures: Sequence[Tensor], flips: Sequence[Flip], limits: Limits
) -> list[Detected]:
    """Detections in pictures (3, h, w) and their flips, in pixels of the pictures as they are.

    Those of several views are merged by NMS per class within the limits, which the network keeps in each of them.
    """
    of_views = [network(pictures), *(_detect_in_flipped(network, pictures, flip) for flip in flips)]
    if len(of_views) == 1:
        return of_views[0]
    merged = []
    for picture, *of_picture in zip(pictures, *of_views, strict=True):
        boxes, scores, labels = (torch.cat([v[kind] for v in of_picture]) for kind in ("boxes", "scores", "labels"))
        merged.append(
            suppress(
                boxes,
                scores,
                labels,
                (picture.shape[1], picture.shape[2]),
                clip_before_nms=True,  # changes nothing: the head has clipped them
                nms_threshold=limits.nms_threshold,
                max_detections=limits.max_detections,
            )
        )
    return merged


def _detect_in_flipped(network: Network, pictures: Sequence[Tensor], flip: Flip) -> list[Detected]:
    # Flipped before they are padded: the padding is at the right and the bottom of every view.
    found = network([picture.flip(_FLIPPED_DIMENSION[flip]) for picture in pictures])
    return [_flip_back(f, picture, flip) for f, picture in zip(found, pictures, strict=True)]


def _flip_back(found: Detected, picture: Tensor, flip: Flip) -> Detected:
    """Boxes of a flipped picture (3, H, W) in pixels of the picture; edges change places, as x1 is the left one."""
    length_px = picture.shape[_FLIPPED_DIMENSION[flip]]
    x1, y1, x2, y2 = found["boxes"].unbind(1)
    if flip == "horizontal":
        x1, x2 = length_px - x2, length_px - x1
    else:
        y1, y2 = length_px - y2, length_px - y1
    return {**found, "boxes": torch.stack([x1, y1, x2, y2], dim=1)}
