"""COCO's annotations of a picture as the labels that models of transformers learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dyzoo.config.values import shown
from dyzoo.hf_transformers.boxes import to_shares
from dyzoo.model.targets import FARTHEST_PX

_MOST_NUMBER = 1 << 53


def to_labels(annotation: Mapping[str, Any], orig_size: tuple[int, int], size: tuple[int, int]) -> dict[str, Tensor]:
    """Labels of one picture.

    Crowd regions stay among them, for the evaluation; the model does not learn them. Boxes are cut off at the picture's
    edges, and what has no area then is left out.

    Args:
        annotation: "image_id" and "annotations", a list with "bbox" (x, y, width, height in pixels of the picture as it
            came) and "category_id" (an index into the model's `id2label`), if wanted "area" in square pixels and
            "iscrowd".
        orig_size: (H, W) of the picture as it came.
        size: (H, W) of the picture in the network.

    Returns:
        "boxes" (M, 4) float32, centre and size in shares of the picture; "class_labels" (M,), "iscrowd" (M,),
        "image_id" (1,), "orig_size" (2,) and "size" (2,) int64; "area" (M,) float32 in square pixels of the picture as
        it came.

    Raises:
        ValueError: something is missing, of another form, or no number.
    """
    if not isinstance(annotation, Mapping) or not isinstance(annotation.get("annotations"), list | tuple):
        raise ValueError(f"annotations of a picture are {shown(annotation)}, expected image_id and annotations, a list")
    objects: Sequence[Any] = annotation["annotations"]
    height, width = orig_size
    boxes, classes, crowds, areas = [], [], [], []
    for number, each in enumerate(objects):
        where = f"annotation {number} of image {shown(annotation.get('image_id'))}"
        if not isinstance(each, Mapping):
            raise ValueError(f"{where} is {shown(each)}, expected an object with bbox and category_id")
        x, y, box_width, box_height = _box(each.get("bbox"), where)
        x1, y1, x2, y2 = max(x, 0.0), max(y, 0.0), min(x + box_width, width), min(y + box_height, height)
        if x2 <= x1 or y2 <= y1:
            continue
        boxes.append((x1, y1, x2, y2))
        classes.append(_whole(each.get("category_id"), f"{where}: category_id"))
        crowds.append(_whole(each.get("iscrowd", 0), f"{where}: iscrowd"))
        area = each.get("area", (x2 - x1) * (y2 - y1))
        areas.append(_number(area, f"{where}: area"))
    corners = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    return {
        "size": torch.tensor(size),
        "image_id": torch.tensor([_whole(annotation.get("image_id", 0), "image_id")]),
        "class_labels": torch.tensor(classes, dtype=torch.int64),
        "boxes": to_shares(corners, torch.tensor(orig_size)).float(),
        "area": torch.tensor(areas, dtype=torch.float32),
        "iscrowd": torch.tensor(crowds, dtype=torch.int64),
        "orig_size": torch.tensor(orig_size),
    }


def _box(given: Any, where: str) -> list[float]:
    values = list(given) if isinstance(given, Sequence) or hasattr(given, "tolist") else []
    if len(values) != 4:
        raise ValueError(f"{where}: bbox is {shown(given)}, expected x, y, width and height in pixels")
    return [_number(value, f"{where}: bbox") for value in values]


def _number(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not abs(number) <= FARTHEST_PX**2:
        raise ValueError(f"{where} has {shown(value)}, expected a number of pixels")
    return number


def _whole(value: Any, where: str) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{where} is {shown(value)}, expected a whole number") from None
    if number != value or not abs(number) <= _MOST_NUMBER:
        raise ValueError(f"{where} is {shown(value)}, expected a whole number")
    return number
