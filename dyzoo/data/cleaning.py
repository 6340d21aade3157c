"""From what label files say to samples that can be relied on. Every format passes through here."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dyzoo.data.records import ImageRecord, Notes, ObjectRecord, Sample
from dyzoo.errors import ImageError
from dyzoo.images import read_image_size

# A side below this is rounding, not an object: at the far end of a 20,000 px image float32 resolves 0.002 px.
MIN_SIDE_PX = 0.01
# Boxes may reach this far over the edge without a word: tools round, and some count pixels from 1.
CLIP_TOLERANCE_PX = 1.0

Box = tuple[float, float, float, float]


def clean(images: Sequence[ImageRecord], labels: Sequence[str], notes: Notes) -> list[Sample]:
    """Drop what cannot be used, mend what can, and note both.

    The size in an image's header wins over the one its label file gives. Boxes are clipped to the image. Dropped are
    images that cannot be opened, and objects of other classes than `labels`, without area, wholly outside their
    image, or given twice. An image that is left without objects stays: it shows what background looks like.
    """
    label_of_name = {name: label for label, name in enumerate(labels)}
    samples = []
    for image in images:
        try:
            width_px, height_px = read_image_size(image.path)
        except ImageError as error:
            notes.add("images that cannot be opened, dropped", error)
            continue
        if image.claimed_size not in (None, (width_px, height_px)):
            claimed = "x".join(map(str, image.claimed_size or ()))
            notes.add(
                "image sizes that differ from the label file, the image's own taken",
                f"{image.path.name}: {width_px}x{height_px}, not {claimed}",
            )
        objects: dict[tuple[Box, int, bool], None] = {}
        for each in image.objects:
            box = _clean_box(each, image, width_px, height_px, notes)
            if box is None:
                continue
            if each.name not in label_of_name:
                notes.add(
                    "objects of a class that is not among the labels, dropped", f"{each.name} in {image.path.name}"
                )
                continue
            key = (box, label_of_name[each.name], each.crowd)
            if key in objects:
                notes.add("objects given twice, taken once", _describe(each, image))
            objects[key] = None
        samples.append(
            Sample(
                image_path=image.path,
                width_px=width_px,
                height_px=height_px,
                boxes_xyxy=np.array([box for box, _, _ in objects], dtype=np.float32).reshape(-1, 4),
                labels=np.array([label for _, label, _ in objects], dtype=np.int64),
                crowd=np.array([crowd for _, _, crowd in objects], dtype=np.bool_),
                image_id=image.image_id,
            )
        )
    return samples


def _clean_box(each: ObjectRecord, image: ImageRecord, width_px: int, height_px: int, notes: Notes) -> Box | None:
    """The box clipped to its image, or None if nothing is left of it."""
    x1, y1, x2, y2 = each.box_xyxy
    if not all(map(math.isfinite, each.box_xyxy)):
        notes.add("boxes with coordinates that are not finite, dropped", _describe(each, image))
        return None
    if min(x2 - x1, y2 - y1) < MIN_SIDE_PX:
        notes.add("boxes without area, dropped", _describe(each, image))
        return None
    clipped = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width_px)), min(y2, float(height_px)))
    if min(clipped[2] - clipped[0], clipped[3] - clipped[1]) < MIN_SIDE_PX:
        notes.add("boxes outside their image, dropped", _describe(each, image))
        return None
    if max(abs(a - b) for a, b in zip(clipped, each.box_xyxy, strict=True)) > CLIP_TOLERANCE_PX:
        notes.add("boxes reaching over the edge of their image, clipped", _describe(each, image))
    return clipped


def _describe(each: ObjectRecord, image: ImageRecord) -> str:
    return f"{image.path.name} [{' '.join(f'{value:g}' for value in each.box_xyxy)}]"
