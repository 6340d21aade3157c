"""The values in the rows of a COCO file: ids, boxes, outlines, areas and marks of crowds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

Row = dict[str, Any]
Corners = tuple[float, float, float, float]

_HIGHEST = 2**63 - 1
# Compressed counts: digits of five bits, the last one of a number below 80. pycocotools reads on behind the end of what
# is none, and shifts by as much as it is told.
_COUNTS = re.compile(rb"(?:[P-o]{0,6}[0-O])+")


class Ids:
    """The numbers of a table's rows.

    Whole numbers stay what they are, also as text or with a fraction of 0. Other texts and numbers, such as `"abc-1"`,
    get the lowest numbers that are free, in the order of the rows.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        values = [row.get("id") for row in rows]
        taken = {number for value in values if (number := as_number(value)) is not None}
        free = (number for number in count(1) if number not in taken)
        names = (value for value in values if as_number(value) is None and _is_name(value))
        self.renamed: dict[Any, int] = dict(zip(dict.fromkeys(names), free))  # noqa: B905 (one of them has no end)

    def number(self, value: object) -> int | None:
        """The number that an id stands for; None if it is none, or none of the table's names."""
        number = as_number(value)
        return self.renamed.get(value) if number is None and _is_name(value) else number


def as_number(value: object) -> int | None:
    """A whole number within int64, however it is written; None if it is none."""
    if isinstance(value, str) and value.isdecimal() and len(value) < 20:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _HIGHEST else None


def _is_name(value: object) -> bool:
    return (isinstance(value, str) and bool(value.strip())) or (isinstance(value, float) and math.isfinite(value))


def corners_of(bbox: object) -> Corners | None:
    """COCO's (x, y, width, height) as pixel edges; None if it is no list of four numbers."""
    if not (isinstance(bbox, list) and len(bbox) == 4 and all(isinstance(v, int | float) for v in bbox)):
        return None
    try:
        x, y, width, height = map(float, bbox)
    except OverflowError:  # JSON's integers know no bound
        return (math.nan,) * 4
    return x, y, x + width, y + height


def corners_around(outline: object, size: tuple[int, int] | None) -> Corners | None:
    """The box around polygons or a mask of runs, counted or compressed; None if it is neither.

    Args:
        outline: an annotation's "segmentation".
        size: (width, height) of the image, which a mask has to share; None if the file does not tell.
    """
    if isinstance(outline, list):
        polygons = outline if all(isinstance(part, list) for part in outline) else [outline]
        if not polygons or not all(map(_is_polygon, polygons)):
            return None
        xs, ys = ([_as_float(value) for polygon in polygons for value in polygon[start::2]] for start in (0, 1))
        return min(xs), min(ys), max(xs), max(ys)
    return _corners_of_mask(outline, size) if isinstance(outline, dict) else None


def _is_polygon(part: list[object]) -> bool:
    return len(part) >= 6 and len(part) % 2 == 0 and all(isinstance(value, int | float) for value in part)


def _corners_of_mask(mask: Row, size: tuple[int, int] | None) -> Corners | None:
    """All is checked before pycocotools sees it, which trusts its callers; no mask is unpacked."""
    from pycocotools import mask as masks

    height_width, counts = mask.get("size"), mask.get("counts")
    if not (isinstance(height_width, list) and len(height_width) == 2):
        return None
    height, width = map(as_number, height_width)
    if height is None or width is None or min(height, width) < 1 or height * width >= 2**32:
        return None
    if size not in (None, (width, height)):
        return None
    if isinstance(counts, list):
        numbers = list(map(as_number, counts))
        if any(number is None or number < 0 for number in numbers) or sum(filter(None, numbers)) != height * width:
            return None
        runs = masks.frPyObjects({"size": [height, width], "counts": numbers}, height, width)
    elif isinstance(counts, str) and counts.isascii() and _COUNTS.fullmatch(counts.encode()):
        runs = {"size": [height, width], "counts": counts.encode()}
    else:
        return None
    x, y, box_width, box_height = masks.toBbox(runs).tolist()
    # Runs of a compressed mask may still add up to more than there is.
    inside = 0 <= x <= x + box_width <= width and 0 <= y <= y + box_height <= height
    return (x, y, x + box_width, y + box_height) if inside else None


def area_of(row: Row) -> float | None:
    """An annotation's "area"; None if it has none, NaN if that is no number."""
    area = row.get("area")
    if area is None:
        return None
    return _as_float(area) if isinstance(area, int | float) and not isinstance(area, bool) else math.nan


def is_crowd(row: Row) -> bool:
    """Whether an annotation is marked as a crowd region."""
    mark = row.get("iscrowd")
    return bool(mark) and mark not in ("0", "false")


def masks_of_datumaro(images: Sequence[Row], annotations: Sequence[Row]) -> Iterator[Row]:
    """The annotations that datumaro, and CVAT through it, may have marked as crowds for being masks.

    It marks every object that has a mask instead of a polygon, alone or not. Its rows of images have no more than
    blanks for where an image comes from.
    """
    blanks = {"license": 0, "flickr_url": "", "coco_url": "", "date_captured": 0}
    if images and all(row.get(key) == blank for row in images for key, blank in blanks.items()):
        for row in annotations:
            if is_crowd(row) and isinstance(row.get("segmentation"), dict):
                yield row


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.nan
