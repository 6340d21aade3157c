"""Files of all that a job has found, made of its journal with one picture at a time in memory."""

from __future__ import annotations

import csv
import json
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from dyzoo.files import replacing, write_text
from dyzoo.images.detections import Detections
from dyzoo.images.exports import ROW_NAMES
from dyzoo.prediction.journal import Journal
from dyzoo.prediction.names import LABELS_NAME

Format = Literal["json", "jsonl", "coco", "yolo", "csv"]
FORMATS: tuple[Format, ...] = get_args(Format)
"""Names of the formats; "jsonl" is the journal itself, which there is in any case."""

JSON_NAME, CSV_NAME, CLASSES_NAME = "detections.json", "detections.csv", "classes.txt"
COCO_RESULTS_NAME, COCO_IMAGES_NAME = "coco_results.json", "coco_images.json"


def write_format(name: Format, journal: Journal, out: Path, labels: Sequence[str]) -> Path:
    """Write all that is in the journal in one format; a file is written aside and then renamed.

    Args:
        name: one of `FORMATS`.
        journal: what was found.
        out: the folder.
        labels: name of every class the detector knows.

    Returns:
        The file, or the folder of many; of COCO's two files the results.

    Raises:
        OSError: the disk is full, or cannot be written to.
        DyzooError: the journal has changed on the disk.
    """
    if name == "json":
        return write_json(journal, out / JSON_NAME)
    if name == "coco":
        return _write_coco(journal, out, labels)
    if name == "yolo":
        return _write_yolo(journal, out, labels)
    if name == "csv":
        return _write_csv(journal, out / CSV_NAME, labels)
    return journal.path


def write_json(journal: Journal, path: Path) -> Path:
    """Write one JSON: the settings, then `images`, each as `Detections.to_dict` has it."""
    head = json.dumps({**journal.settings, "images": []}, indent=2).removesuffix("[]\n}")
    with replacing(path) as aside, aside.open("w", encoding="utf-8") as out:
        out.write(head)
        _write_array(out, (json.dumps(row.found, indent=2) for row in journal.rows()), indent=4)
        out.write("\n}\n")
    return path


def _write_coco(journal: Journal, out: Path, labels: Sequence[str]) -> Path:
    """A results file, and an annotation file without annotations that says what its ids mean.

    pycocotools' `COCO(images).loadRes(results)` takes them as they are.
    """
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(labels)]
    with replacing(out / COCO_IMAGES_NAME) as aside, aside.open("w", encoding="utf-8") as file:
        file.write(json.dumps({"categories": categories, "annotations": []}).removesuffix("}") + ', "images": ')
        _write_array(file, (json.dumps(_coco_image(number, row.found)) for number, row in _numbered(journal)))
        file.write("}\n")
    results = out / COCO_RESULTS_NAME
    with replacing(results) as aside, aside.open("w", encoding="utf-8") as file:
        _write_array(file, (json.dumps(entry) for entry in _coco_entries(journal, labels)))
        file.write("\n")
    return results


def _numbered(journal: Journal) -> Iterator[tuple[int, Any]]:
    yield from enumerate(journal.rows(), 1)


def _coco_image(number: int, found: dict[str, Any]) -> dict[str, Any]:
    image = {"id": number, "file_name": found["source"], "width": found["width_px"], "height": found["height_px"]}
    return image if found["frame"] is None else {**image, "frame": found["frame"], "time_s": found["time_s"]}


def _coco_entries(journal: Journal, labels: Sequence[str]) -> Iterator[dict[str, Any]]:
    for number, row in _numbered(journal):
        for entry in journal.detections(row, labels).to_coco(number):
            yield {**entry, "bbox": [round(v, 2) for v in entry["bbox"]], "score": round(entry["score"], 4)}


def _write_yolo(journal: Journal, out: Path, labels: Sequence[str]) -> Path:
    """labels/STEM.txt for each picture, empty where nothing was found, with scores; classes.txt names the labels."""
    folder = out / LABELS_NAME
    for row in journal.rows():
        lines = journal.detections(row, labels).to_yolo()
        with replacing(folder / f"{row.stem}.txt", flush=False) as aside:
            aside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    write_text(out / CLASSES_NAME, "".join(f"{' '.join(name.split())}\n" for name in labels))
    return folder


def _write_csv(journal: Journal, path: Path, labels: Sequence[str]) -> Path:
    with (
        replacing(path) as aside,
        aside.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        table = csv.DictWriter(file, ROW_NAMES)
        table.writeheader()
        for row in journal.rows():
            found: Detections = journal.detections(row, labels)
            table.writerows(found.to_rows())
    return path


def _write_array(out: Any, items: Iterable[str], indent: int = 0) -> None:
    """Write a JSON array, each item on a line of its own; indented as `json.dumps` does it where that is asked for."""
    empty = True
    out.write("[")
    for item in items:
        out.write(("\n" if empty else ",\n") + textwrap.indent(item, " " * indent))
        empty = False
    out.write("]" if empty else "\n" + " " * (indent // 2) + "]")
