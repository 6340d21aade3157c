"""Writing label files: COCO JSON, Pascal VOC and YOLO, as the readers beside this module understand them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

import yaml

from dyzoo.data.formats.lookup import is_plain_name
from dyzoo.data.formats.splits import check_split_name
from dyzoo.data.formats.voc import LABELMAP_HEADER, LABELMAP_NAME
from dyzoo.data.records import Sample
from dyzoo.errors import DatasetError
from dyzoo.images.colors import class_color

MOST_NAME_BYTES = 255
"""How long the name of a file may be on any usual file system."""


class Named(NamedTuple):
    """A sample and the file name its image gets."""

    sample: Sample
    file_name: str


Splits = Mapping[str, Sequence[Named]]


def image_folder(to: str, split: str) -> Path:
    """Where the images of a split lie, relative to the dataset folder."""
    return {"coco": Path(split), "voc": Path("JPEGImages"), "yolo": Path("images", split)}.get(to, Path("images"))


def check_names(folder: Path, splits: Splits) -> None:
    """Raise `DatasetError` unless every split and every file of it has a name that stays in `folder`."""
    for split, images in splits.items():
        check_split_name(split, folder)
        for _, file_name in images:
            if not is_plain_name(file_name, MOST_NAME_BYTES):
                raise DatasetError(f"{folder}: an image is to be called {file_name!a}, expected a plain file name")


def write_coco(folder: Path, splits: Splits, labels: Sequence[str], category_ids: Sequence[int]) -> None:
    """annotations/instances_<split>.json: boxes to a thousandth of a pixel, areas as they were read, crowds marked."""
    check_names(folder, splits)
    # An empty supercategory: Roboflow's "none" marks what is no class.
    categories = [
        {"id": category_id, "name": name, "supercategory": ""}
        for category_id, name in zip(category_ids, labels, strict=True)
    ]
    for split, images in splits.items():
        annotations: list[dict[str, object]] = []
        for sample, _ in images:
            for (box, label, crowd), area in zip(_objects(sample), sample.areas_px2.tolist(), strict=True):
                x1, y1, x2, y2 = (round(edge, 3) for edge in box)
                width, height = round(x2 - x1, 3), round(y2 - y1, 3)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": sample.image_id,
                        "category_id": category_ids[label],
                        "bbox": [x1, y1, width, height],
                        "area": area,
                        "segmentation": [],
                        "iscrowd": int(crowd),
                    }
                )
        rows = [
            {"id": sample.image_id, "file_name": name, "width": sample.width_px, "height": sample.height_px}
            for sample, name in images
        ]
        content = {"images": rows, "annotations": annotations, "categories": categories}
        _write(folder / "annotations" / f"instances_{split}.json", json.dumps(content, ensure_ascii=False) + "\n")


def write_voc(folder: Path, splits: Splits, labels: Sequence[str], category_ids: Sequence[int]) -> None:
    """Annotations/*.xml, ImageSets/Main/<split>.txt and CVAT's labelmap.txt, which keeps the classes and their order.

    Coordinates are to a thousandth of a pixel; crowd regions are `difficult`.
    """
    check_names(folder, splits)
    lines = (f"{name}:{','.join(map(str, class_color(label)))}::" for label, name in enumerate(labels))
    _write(folder / LABELMAP_NAME, "\n".join([LABELMAP_HEADER, *lines]) + "\n")
    for split, images in splits.items():
        for sample, file_name in images:
            tree = ElementTree(_voc_element(sample, file_name, labels))
            indent(tree)
            path = folder / "Annotations" / f"{Path(file_name).stem}.xml"
            path.parent.mkdir(parents=True, exist_ok=True)
            tree.write(path, encoding="utf-8")
        stems = "".join(f"{Path(file_name).stem}\n" for _, file_name in images)
        _write(folder / "ImageSets" / "Main" / f"{split}.txt", stems)


def _voc_element(sample: Sample, file_name: str, labels: Sequence[str]) -> Element:
    root = Element("annotation")
    SubElement(root, "folder").text = "JPEGImages"
    SubElement(root, "filename").text = file_name
    size = SubElement(root, "size")
    for name, value in (("width", sample.width_px), ("height", sample.height_px), ("depth", 3)):
        SubElement(size, name).text = str(value)
    SubElement(root, "segmented").text = "0"
    for box, label, crowd in _objects(sample):
        element = SubElement(root, "object")
        fields = {"name": labels[label], "pose": "Unspecified", "truncated": "0", "difficult": str(int(crowd))}
        for name, text in fields.items():
            SubElement(element, name).text = text
        corners = SubElement(element, "bndbox")
        for name, edge in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
            SubElement(corners, name).text = _decimal(edge, 3)
    return root


def write_yolo(folder: Path, splits: Splits, labels: Sequence[str], category_ids: Sequence[int]) -> None:
    """labels/<split>/*.txt, empty for images without objects, and Ultralytics' data.yaml. Crowd regions are left out.

    data.yaml has no `path`: Ultralytics would take it from where it is started, and takes the file's own folder else.
    """
    check_names(folder, splits)
    for split, images in splits.items():
        for sample, file_name in images:
            lines = []
            for (x1, y1, x2, y2), label, crowd in _objects(sample):
                x, width = (x1 + x2) / 2 / sample.width_px, (x2 - x1) / sample.width_px
                y, height = (y1 + y2) / 2 / sample.height_px, (y2 - y1) / sample.height_px
                if not crowd:
                    lines.append(f"{label} {' '.join(_decimal(value, 8) for value in (x, y, width, height))}\n")
            _write(folder / "labels" / split / f"{Path(file_name).stem}.txt", "".join(lines))
    content = {**{split: f"images/{split}" for split in splits}, "names": dict(enumerate(labels))}
    _write(folder / "data.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000))


WRITERS = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo}


def _objects(sample: Sample) -> list[tuple[list[float], int, bool]]:
    columns = sample.boxes_xyxy.tolist(), sample.labels.tolist(), sample.crowd.tolist()
    return list(zip(*columns, strict=True))


def _decimal(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".rstrip("0").rstrip(".")


def _write(path: Path, text: str) -> None:
    """Plainly: the whole folder is written aside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
