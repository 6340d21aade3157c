"""Converting the folder of an enemy writes the new folder and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dyzoo.data import convert_dataset, open_dataset
from dyzoo.data.formats.writers import WRITERS, Named
from dyzoo.data.records import Sample
from dyzoo.errors import DatasetError
from tests.data.data_builders import (
    CAT_LINE,
    coco_tables,
    cvat_yolo,
    write_coco,
    write_json,
    write_lines,
    write_picture,
    write_voc,
    write_yolo,
)


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its bytes, links not followed."""
    return {
        str(path): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in sorted(folder.rglob("*"))
    }


def yolo_split(folder: Path, name: str) -> None:
    write_lines(cvat_yolo(folder) / "obj.data", "names = obj.names", f"{name} = train.txt")


def coco_split(folder: Path, name: str) -> None:
    (write_coco(folder) / "annotations" / "instances_train.json").rename(
        folder / "annotations" / f"instances_{name}.json"
    )


def voc_split(folder: Path, name: str) -> None:
    write_voc(folder, {"a": [("cat", (1, 2, 11, 22))]}, **{name: ["a"]})


@pytest.mark.parametrize("to", ["coco", "voc", "yolo"])
@pytest.mark.parametrize(
    ("build", "name"),
    [
        (yolo_split, "{victim}"),
        (yolo_split, "../../victim"),
        (yolo_split, "../victim"),
        (yolo_split, ".."),
        (yolo_split, "a\\..\\b"),
        (yolo_split, "C:victim"),
        (yolo_split, "x" * 300),
        (coco_split, ".."),
        (coco_split, ""),
        (coco_split, "a\nb"),
        (voc_split, ".."),
        (voc_split, "a\x1b[2J"),
    ],
)
def test_no_split_leads_out_of_the_new_folder(
    build: Callable[[Path, str], None], name: str, to: str, tmp_path: Path
) -> None:
    write_lines(tmp_path / "victim.txt", "precious")
    build(tmp_path / "set", name.format(victim=tmp_path / "victim"))
    before = snapshot(tmp_path)
    with pytest.raises(DatasetError, match="a split is called") as caught:
        convert_dataset(tmp_path / "set", tmp_path / "deep" / "er" / "new", to)
    assert str(caught.value).isprintable()
    assert snapshot(tmp_path) == before


SAMPLE = Sample(Path("a.jpg"), 4, 3, np.zeros((0, 4), np.float32), np.zeros(0, int), np.zeros(0, bool), 1)


@pytest.mark.parametrize("to", ["coco", "voc", "yolo"])
@pytest.mark.parametrize(("split", "name"), [("../x", "a.jpg"), ("/x", "a.jpg"), ("x", "../a.jpg"), ("x", "b/a.jpg")])
def test_the_writers_check_again(split: str, name: str, to: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="expected a plain file name"):
        WRITERS[to](tmp_path / "new", {split: [Named(SAMPLE, name)]}, ["cat"], [1])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("to", ["coco", "voc", "yolo"])
def test_names_of_images_that_no_other_system_takes(to: str, tmp_path: Path) -> None:
    stems = ("x" * 251, "x" * 250 + "y", "ü" * 125, ".hidden", "a\\b:c", " ", "a\nb")
    names = [f"{stem}.jpg" for stem in stems]
    tables = coco_tables(
        images=[{"id": number, "file_name": name} for number, name in enumerate(names)],
        annotations=[
            {"id": number, "image_id": number, "category_id": 3, "bbox": [number, 1, 20, 20]}
            for number in range(len(names))
        ],
    )
    write_json(tmp_path / "set" / "annotations" / "instances_train.json", tables)
    for name in names:
        write_picture(tmp_path / "set" / "train" / name)
    conversion = convert_dataset(tmp_path / "set", tmp_path / "new", to)
    assert conversion.images == {"train": len(names)}
    samples = open_dataset(tmp_path / "new").samples
    assert sorted(round(sample.boxes_xyxy[0, 0].item()) for sample in samples) == list(range(len(names)))


def test_a_folder_is_not_written_over_a_pipe(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path / "set", CAT_LINE)
    os.mkfifo(tmp_path / "new")
    with pytest.raises(DatasetError, match="new is a file, expected a new or empty folder"):
        convert_dataset(folder, tmp_path / "new")
