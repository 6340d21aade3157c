"""Small datasets on disk, as labelling tools write them, for the tests of this folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

SIZE = (40, 30)  # (width, height) of every picture unless a test says otherwise

VocObject = tuple[str, Sequence[object]] | tuple[str, Sequence[object], int]


def write_picture(path: Path, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (10, 20, 30)).save(path)
    return path


def write_xml(path: Path, *objects: VocObject, size: tuple[object, object] = SIZE, filename: str = "") -> Path:
    """Objects are (name, (xmin, ymin, xmax, ymax)) or with `difficult` as a third."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [f"<filename>{filename}</filename><size><width>{size[0]}</width><height>{size[1]}</height></size>"]
    for name, box, *difficult in objects:
        corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        flag = f"<difficult>{difficult[0]}</difficult>" if difficult else ""
        parts.append(f"<object><name>{name}</name>{flag}<bndbox>{corners}</bndbox></object>")
    path.write_text(f"<annotation>{''.join(parts)}</annotation>")
    return path


def write_voc(folder: Path, images: dict[str, Sequence[VocObject]], **splits: Sequence[str]) -> Path:
    """Annotations/, JPEGImages/ and a list for each of `splits`."""
    for name, objects in images.items():
        write_picture(folder / "JPEGImages" / f"{name}.jpg")
        write_xml(folder / "Annotations" / f"{name}.xml", *objects)
    for split, names in splits.items():
        path = folder / "ImageSets" / "Main" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name}\n" for name in names))
    return folder


def coco_tables(**changes: Any) -> dict[str, Any]:
    """Two pictures, three boxes, category ids with a gap."""
    tables = {
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 40, "height": 30},
            {"id": 9, "file_name": "b.jpg", "width": 40, "height": 30},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 18, "bbox": [1, 2, 10, 20], "iscrowd": 0},
            {"id": 2, "image_id": 9, "category_id": 3, "bbox": [5.5, 6.5, 4, 3], "iscrowd": 0},
            {"id": 3, "image_id": 9, "category_id": 3, "bbox": [20, 10, 15, 15], "iscrowd": 1},
        ],
    }
    return {**tables, **changes}


def write_coco(folder: Path, tables: Any = None, *, split: str = "train") -> Path:
    """annotations/instances_<split>.json and the two pictures of `coco_tables` in <split>/."""
    for name in ("a.jpg", "b.jpg"):
        write_picture(folder / split / name)
    path = folder / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(coco_tables() if tables is None else tables))
    return folder


def annotation(**changes: Any) -> dict[str, Any]:
    """A fourth annotation for `coco_tables`."""
    return {"id": 4, "image_id": 7, "category_id": 3, "bbox": [2, 2, 5, 5], "iscrowd": 0, **changes}
