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


def write_lines(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def write_yolo(folder: Path, *lines: str, split: str = "train", names: str = "[cat, dog]") -> Path:
    """data.yaml and images/<split>/a.jpg with `lines` as its label file."""
    write_picture(folder / "images" / split / "a.jpg")
    write_lines(folder / "labels" / split / "a.txt", *(lines or ("0 0.15 0.4 0.25 0.6666666667",)))
    write_lines(folder / "data.yaml", "path: .", f"{split}: images/{split}", f"names: {names}")
    return folder


# The exports below hold a.jpg with a cat at (1, 2, 11, 22), b.jpg with a dog at (20, 10, 35, 25). YOLO's lines
# are rounded to six digits, as the tools round them.
CAT_LINE, DOG_LINE = "0 0.150000 0.400000 0.250000 0.666667", "1 0.687500 0.583333 0.375000 0.500000"
CAT_OBJECT, DOG_OBJECT = ("cat", (1, 2, 11, 22)), ("dog", (20, 10, 35, 25))


def export_tables(names: Sequence[str] = ("a.jpg", "b.jpg"), first_id: int = 1) -> dict[str, Any]:
    """COCO tables of the two images; tools count from 0 or from 1."""
    boxes = ([1, 2, 10, 20], [20, 10, 15, 15])
    return {
        "info": {"year": 2024, "version": "1.0", "description": ""},
        "licenses": [{"id": 0, "name": "", "url": ""}],
        "categories": [{"id": first_id, "name": "cat"}, {"id": first_id + 1, "name": "dog"}],
        "images": [{"id": n + first_id, "file_name": name, "width": 40, "height": 30} for n, name in enumerate(names)],
        "annotations": [
            {
                "id": n + first_id,
                "image_id": n + first_id,
                "category_id": n + first_id,
                "segmentation": [],
                "bbox": boxes[n],
                "area": boxes[n][2] * boxes[n][3],
                "iscrowd": 0,
            }
            for n in range(len(names))
        ],
    }


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def roboflow_coco(folder: Path) -> Path:
    for split in ("train", "valid", "test"):
        tables = export_tables()
        for row in tables["categories"]:
            row["supercategory"] = "pets"
        tables["categories"].insert(0, {"id": 0, "name": "pets", "supercategory": "none"})
        write_json(folder / split / "_annotations.coco.json", tables)
        for name in ("a.jpg", "b.jpg"):
            write_picture(folder / split / name)
    write_lines(folder / "README.roboflow.txt", "pets - v1")
    return folder


def roboflow_yolo(folder: Path) -> Path:
    for split in ("train", "valid"):
        for name, line in (("a", CAT_LINE), ("b", DOG_LINE)):
            write_picture(folder / split / "images" / f"{name}.jpg")
            write_lines(folder / split / "labels" / f"{name}.txt", line)
    write_lines(
        folder / "data.yaml",
        *("train: ../train/images", "val: ../valid/images", "test: ../test/images", "", "nc: 2"),
        *("names: ['cat', 'dog']", "", "roboflow:", "  workspace: us", "  project: pets", "  version: 1"),
    )
    write_lines(folder / "README.dataset.txt", "pets")
    return folder


def roboflow_voc(folder: Path) -> Path:
    for split in ("train", "valid", "test"):
        for name, box in (("a", CAT_OBJECT), ("b", DOG_OBJECT)):
            write_picture(folder / split / f"{name}.jpg")
            write_xml(folder / split / f"{name}.xml", box, filename=f"{name}.jpg")
    write_lines(folder / "README.roboflow.txt", "pets - v1")
    return folder


def cvat_coco(folder: Path) -> Path:
    write_json(folder / "annotations" / "instances_default.json", export_tables())
    for name in ("a.jpg", "b.jpg"):
        write_picture(folder / "images" / "default" / name)
    return folder


def cvat_voc(folder: Path) -> Path:
    """Subfolders of a task stay, and a name with a space is in quotes."""
    write_picture(folder / "JPEGImages" / "a.jpg")
    write_picture(folder / "JPEGImages" / "day 2" / "b.jpg")
    write_xml(folder / "Annotations" / "a.xml", CAT_OBJECT, filename="a.jpg")
    write_xml(folder / "Annotations" / "day 2" / "b.xml", DOG_OBJECT, filename="day 2/b.jpg")
    write_lines(folder / "ImageSets" / "Main" / "default.txt", "a", '"day 2/b"')
    lines = ("# label:color_rgb:parts:actions", "background:0,0,0::", "cat:128,0,0::", "dog:0,128,0::")
    write_lines(folder / "labelmap.txt", *lines)
    return folder


def cvat_yolo(folder: Path) -> Path:
    """YOLO 1.1, which is darknet's."""
    settings = ("classes = 2", "train = data/train.txt", "names = data/obj.names", "backup = backup/")
    write_lines(folder / "obj.data", *settings)
    write_lines(folder / "obj.names", "cat", "dog")
    write_lines(folder / "train.txt", "data/obj_train_data/a.jpg", "data/obj_train_data/b.jpg")
    for name, line in (("a", CAT_LINE), ("b", DOG_LINE)):
        write_picture(folder / "obj_train_data" / f"{name}.jpg")
        write_lines(folder / "obj_train_data" / f"{name}.txt", line)
    return folder


def cvat_ultralytics(folder: Path) -> Path:
    write_lines(folder / "data.yaml", "names:", "  0: cat", "  1: dog", "path: .", "train: train.txt")
    write_lines(folder / "train.txt", "data/images/train/a.jpg", "images/train/b.jpg")
    for name, line in (("a", CAT_LINE), ("b", DOG_LINE)):
        write_picture(folder / "images" / "train" / f"{name}.jpg")
        write_lines(folder / "labels" / "train" / f"{name}.txt", line)
    return folder


def label_studio_coco(folder: Path, prefix: str = "images/") -> Path:
    write_json(folder / "result.json", export_tables([f"{prefix}a.jpg", f"{prefix}b.jpg"], first_id=0))
    for name in ("a.jpg", "b.jpg"):
        write_picture(folder / "images" / name)
    return folder


def label_studio_yolo(folder: Path) -> Path:
    for name, line in (("a", CAT_LINE), ("b", DOG_LINE)):
        write_picture(folder / "images" / f"{name}.jpg")
        write_lines(folder / "labels" / f"{name}.txt", line)
    (folder / "classes.txt").write_text("cat\ndog\n")
    categories = [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
    write_json(folder / "notes.json", {"categories": categories, "info": {"contributor": "Label Studio"}})
    return folder


def label_studio_voc(folder: Path) -> Path:
    for name, box in (("a", CAT_OBJECT), ("b", DOG_OBJECT)):
        write_picture(folder / "images" / f"{name}.jpg")
        write_xml(folder / "Annotations" / f"{name}.xml", box, filename=name)
    return folder


EXPORTS = {
    roboflow_coco: ("test", "train", "valid"),
    roboflow_yolo: ("train", "val"),
    roboflow_voc: ("test", "train", "valid"),
    cvat_coco: ("default",),
    cvat_voc: ("default",),
    cvat_yolo: ("train",),
    cvat_ultralytics: ("train",),
    label_studio_coco: ("result",),
    label_studio_yolo: ("all",),
    label_studio_voc: ("all",),
}
"""Builder of each export -> the names of its splits."""
