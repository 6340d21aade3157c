"""Files that annotation tools import: tasks of Label Studio with predictions, and CVAT's XML for images.

Sources: Label Studio's "Import pre-annotated data" and "Local storage"; CVAT's "CVAT for image", version 1.1.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

import numpy as np

from dyzoo.data.formats.writers import Named
from dyzoo.images.colors import class_color

TASKS_NAME = "tasks.json"
LABEL_CONFIG_NAME = "label_config.xml"
CVAT_NAME = "annotations.xml"
IMAGES = "images"  # the folder beside them


def write_label_studio(
    folder: Path, images: Sequence[Named], scores: Sequence[np.ndarray], labels: Sequence[str], model_name: str
) -> None:
    """Write tasks.json, a task with one prediction for each image, and the labelling interface, label_config.xml.

    Pictures are named as files of a local storage whose document root is `folder`.

    Args:
        images: the samples with the names of their files in `images/`.
        scores: (M,) float in 0..1 for the objects of each.
        labels: class names.
        model_name: what Label Studio shows as the version of the model.
    """
    tasks = []
    for number, ((sample, file_name), found) in enumerate(zip(images, scores, strict=True), start=1):
        size = {"original_width": sample.width_px, "original_height": sample.height_px, "image_rotation": 0}
        share = 100 / np.array([sample.width_px, sample.height_px] * 2, dtype=np.float64)
        objects = zip((sample.boxes_xyxy * share).tolist(), sample.labels.tolist(), found.tolist(), strict=True)
        result = [
            {
                "id": f"{number}_{place}",
                "type": "rectanglelabels",
                "from_name": "label",
                "to_name": "image",
                **size,
                "score": round(score, 4),
                "value": {
                    "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1,
                    "rotation": 0,
                    "rectanglelabels": [labels[label]],
                },
            }
            for place, ((x1, y1, x2, y2), label, score) in enumerate(objects, start=1)
        ]  # fmt: skip
        prediction = {"model_version": model_name, "score": round(float(found.mean()), 4) if len(found) else 0.0}
        url = f"/data/local-files/?d={quote(f'{IMAGES}/{file_name}')}"
        tasks.append({"data": {"image": url}, "predictions": [{**prediction, "result": result}]})
    (folder / TASKS_NAME).write_text(json.dumps(tasks, ensure_ascii=False) + "\n", encoding="utf-8")
    view = Element("View")
    SubElement(view, "Image", name="image", value="$image", zoom="true")
    choices = SubElement(view, "RectangleLabels", name="label", toName="image")
    for label, name in enumerate(labels):
        SubElement(choices, "Label", value=name, background=_hex(label))
    _write_xml(view, folder / LABEL_CONFIG_NAME, declaration=False)  # Label Studio takes it as text


def write_cvat(folder: Path, images: Sequence[Named], labels: Sequence[str]) -> None:
    """Write annotations.xml: the boxes of each image, in pixels, as CVAT's own export has them.

    Args:
        images: the samples with the names of their files in `images/`.
        labels: class names.
    """
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    known = SubElement(SubElement(SubElement(root, "meta"), "task"), "labels")
    for label, name in enumerate(labels):
        element = SubElement(known, "label")
        for key, text in (("name", name), ("color", _hex(label)), ("type", "rectangle")):
            SubElement(element, key).text = text
    for number, (sample, file_name) in enumerate(images):
        size = {"width": str(sample.width_px), "height": str(sample.height_px)}
        image = SubElement(root, "image", {"id": str(number), "name": file_name, **size})
        for box, label in zip(sample.boxes_xyxy.tolist(), sample.labels.tolist(), strict=True):
            edges = {key: f"{edge:.2f}" for key, edge in zip(("xtl", "ytl", "xbr", "ybr"), box, strict=True)}
            shown = {"label": labels[label], "source": "auto", "occluded": "0", **edges, "z_order": "0"}
            SubElement(image, "box", shown)
    _write_xml(root, folder / CVAT_NAME, declaration=True)


def _hex(label: int) -> str:
    return "#" + "".join(f"{channel:02x}" for channel in class_color(label))


def _write_xml(root: Element, path: Path, declaration: bool) -> None:
    indent(root)
    ElementTree(root).write(path, encoding="utf-8", xml_declaration=declaration)
