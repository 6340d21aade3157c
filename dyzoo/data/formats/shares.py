"""Boxes in shares of their image, where a format has pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dyzoo.data.records import ImageRecord, Notes, ObjectRecord
from dyzoo.errors import DatasetError

_TOLERANCE = 0.01  # tools round
_MOST_OVER_THE_EDGE = 0.05  # share of the boxes; slips of labellers are fewer, another meaning of the numbers has more


def mark_shares(images: Sequence[ImageRecord], source: Path, notes: Notes) -> list[ImageRecord]:
    """The images of a split, marked as `relative` if all of its boxes are in shares of the image.

    Some scripts write numbers from 0 to 1 into files whose boxes are in pixels by definition. In pixels every object of
    the split would lie within the first pixel of its image, so this is no guess.

    Raises:
        DatasetError: they are shares, but not of the edges: several boxes would reach over the edge of their image.
    """
    boxes = []
    for each in (each for image in images for each in image.objects if _has_area(each)):
        if not _is_share(each.box_xyxy):
            return list(images)
        boxes.append(each.box_xyxy)
    if not boxes:
        return list(images)
    over = sum(max(x2, y2) > 1 + _TOLERANCE for _, _, x2, y2 in boxes)
    if over > _MOST_OVER_THE_EDGE * len(boxes):
        raise DatasetError(
            f"{source}: boxes are numbers from 0 to 1, shares of the image and not its pixels, and {over} of "
            f"{len(boxes)} reach over its edge, as if they began with the centre: expected pixels"
        )
    marked = []
    for image in images:
        for each in image.objects:
            notes.add(
                "boxes in shares of their image instead of pixels, taken as such", _shown(each, image), image.path
            )
        # An area in unknown units is none.
        objects = [each._replace(area=None) for each in image.objects]
        marked.append(replace(image, objects=objects, relative=True))
    return marked


def _has_area(each: ObjectRecord) -> bool:
    x1, y1, x2, y2 = each.box_xyxy
    return all(map(math.isfinite, each.box_xyxy)) and x2 > x1 and y2 > y1


def _is_share(box: tuple[float, float, float, float]) -> bool:
    x1, y1, x2, y2 = box
    return all(-_TOLERANCE <= value <= 1 + _TOLERANCE for value in (x1, y1, x2 - x1, y2 - y1))


def _shown(each: ObjectRecord, image: ImageRecord) -> str:
    return f"{image.path.name} at {' '.join(f'{value:g}' for value in each.box_xyxy)}"
