"""From what label files say to samples that can be relied on. Every format passes through here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from dyzoo.data.records import ImageRecord, Notes, ObjectRecord, Sample
from dyzoo.errors import ImageError
from dyzoo.images.reading import read_image_size

# A side below this is rounding, not an object: at the far end of a 20,000 px image float32 resolves 0.002 px.
MIN_SIDE_PX = 0.01
# Boxes may reach this far over the edge without a word: tools round, and some count pixels from 1.
CLIP_TOLERANCE_PX = 1.0

Box = tuple[float, float, float, float]


def clean(images: Iterable[ImageRecord], labels: Sequence[str], notes: Notes) -> list[Sample]:
    """Drop what cannot be used, mend what can, and note both.

    Every image is opened here, once and for its header alone, and nowhere else on the way from a folder to its samples.
    The size measured wins over the one that its label file claims. Boxes are clipped to the image, the areas that label
    files give stay what they are. Dropped are images that cannot be opened, and objects of other classes than `labels`,
    without area, wholly outside their image, or given twice. An image that is left without objects stays: it shows what
    background looks like.
    """
    label_of_name = {name: label for label, name in enumerate(labels)}
    samples = []
    for image in images:
        try:
            size = read_image_size(image.path)
        except ImageError as error:
            notes.add("images that cannot be opened, dropped", error, image.path)
            continue
        if image.claimed_size not in (None, size):
            what = f"{image.path.name}: {size}, not {image.claimed_size}"
            notes.add("image sizes that differ from the label file's, the image's own taken", what, image.path)
        samples.append(_clean_objects(image, size, label_of_name, notes))
    return samples


def _clean_objects(image: ImageRecord, size: tuple[int, int], label_of_name: dict[str, int], notes: Notes) -> Sample:
    objects: dict[tuple[Box, int, bool], float] = {}  # in order, with their areas
    for each in image.objects:
        label = label_of_name.get(each.name)
        if label is None:
            example = f"{each.name} in {image.path.name}"
            notes.add("objects of a class that is not among the labels, dropped", example, image.path)
            continue
        given = _in_pixels(each.box_xyxy, size) if image.relative else each.box_xyxy
        box, fault = _clean_box(given, size)
        if box is not None and (box, label, each.crowd) in objects:
            fault = "objects given twice, taken once"
        if fault is not None:
            example = f"{image.path.name} at {' '.join(f'{value:g}' for value in given)}"
            notes.add(fault, example, image.path)
        if box is not None:
            objects.setdefault((box, label, each.crowd), _area(each, box, image, notes))
    return Sample(
        image_path=image.path,
        width_px=size[0],
        height_px=size[1],
        boxes_xyxy=np.array([box for box, _, _ in objects], dtype=np.float32).reshape(-1, 4),
        labels=np.array([label for _, label, _ in objects], dtype=np.int64),
        crowd=np.array([crowd for _, _, crowd in objects], dtype=np.bool_),
        image_id=image.image_id,
        areas_px2=np.array(list(objects.values()), dtype=np.float64),
    )


def _in_pixels(box: Box, size: tuple[int, int]) -> Box:
    (x1, y1, x2, y2), (width, height) = box, size
    return x1 * width, y1 * height, x2 * width, y2 * height


def _area(each: ObjectRecord, box: Box, image: ImageRecord, notes: Notes) -> float:
    """The file's own, or that of the box before it is rounded to float32."""
    if each.area is not None:
        if 0 < each.area < math.inf:
            return each.area
        notes.add("areas that are no positive numbers, that of the box taken", f"{each.area:g} in {image.path.name}")
    x1, y1, x2, y2 = box
    return (x2 - x1) * (y2 - y1)


def _clean_box(box: Box, size: tuple[int, int]) -> tuple[Box | None, str | None]:
    """The box clipped to an image of `size` (width, height), or None if nothing is left; and what was wrong with it."""
    x1, y1, x2, y2 = box
    if not all(map(math.isfinite, box)):
        return None, "boxes with coordinates that are not finite, dropped"
    if min(x2 - x1, y2 - y1) < MIN_SIDE_PX:
        return None, "boxes without area, dropped"
    clipped = (max(x1, 0.0), max(y1, 0.0), min(x2, float(size[0])), min(y2, float(size[1])))
    if min(clipped[2] - clipped[0], clipped[3] - clipped[1]) < MIN_SIDE_PX:
        return None, "boxes outside their image, dropped"
    if max(abs(before - after) for before, after in zip(box, clipped, strict=True)) > CLIP_TOLERANCE_PX:
        return clipped, "boxes reaching over the edge of their image, clipped"
    return clipped, None
