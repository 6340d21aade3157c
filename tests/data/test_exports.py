"""Exports of labelling tools are recognised by looking, and mean the same whatever the format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dyzoo.data import DetectionDataset, list_splits, open_dataset
from dyzoo.errors import DatasetError
from tests.data.data_builders import (
    CAT_LINE,
    DOG_LINE,
    EXPORTS,
    cvat_coco,
    cvat_ultralytics,
    cvat_voc,
    cvat_yolo,
    export_tables,
    label_studio_coco,
    roboflow_coco,
    roboflow_voc,
    roboflow_yolo,
    write_json,
    write_lines,
    write_picture,
)


def assert_cat_and_dog(dataset: DetectionDataset) -> None:
    assert dataset.labels == ("cat", "dog")
    assert [sample.image_path.name for sample in dataset.samples] == ["a.jpg", "b.jpg"]
    assert [sample.labels.tolist() for sample in dataset.samples] == [[0], [1]]
    assert np.allclose(dataset.samples[0].boxes_xyxy, [[1, 2, 11, 22]], atol=1e-3)
    assert np.allclose(dataset.samples[1].boxes_xyxy, [[20, 10, 35, 25]], atol=1e-3)


@pytest.mark.parametrize(("build", "splits"), EXPORTS.items())
def test_exports(build: Callable[[Path], Path], splits: tuple[str, ...], tmp_path: Path) -> None:
    folder = build(tmp_path / "export")
    assert list_splits(folder) == splits
    for split in splits:
        dataset = open_dataset(folder, split)
        assert_cat_and_dog(dataset)
        if build is not roboflow_coco:
            assert dataset.notes == []
        assert all(folder in sample.image_path.parents for sample in dataset.samples)


@pytest.mark.parametrize("build", [roboflow_coco, roboflow_yolo, roboflow_voc])
@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_every_spelling_finds_the_validation_split(build: Callable[[Path], Path], name: str, tmp_path: Path) -> None:
    for sample in open_dataset(build(tmp_path), name).samples:
        assert "valid" in sample.image_path.parts


@pytest.mark.parametrize("build", [cvat_coco, cvat_voc, cvat_yolo, cvat_ultralytics, label_studio_coco])
def test_an_export_without_a_validation_split_says_how_to_make_one(
    build: Callable[[Path], Path], tmp_path: Path
) -> None:
    folder = build(tmp_path / "export")
    with pytest.raises(
        DatasetError, match=r"no split 'val', available: \w+ \(`dyzoo data convert .*export OUT --split"
    ):
        open_dataset(folder, "val")


@pytest.mark.parametrize(
    "prefix",
    [
        "images\\1/",
        "images\\",
        "../../label-studio/media/upload/4/",
        "..\\..\\label-studio\\media\\upload\\4\\",
        "/data/upload/1/",
        "\\/data\\/upload\\/1\\/",
        "http://localhost:8080/data/upload/1/",
        "/data/local-files/?d=pets%20of%20ours/images/",
        "C:\\labels\\upload\\",
    ],
)
def test_paths_of_label_studio_lead_to_its_images(prefix: str, tmp_path: Path) -> None:
    dataset = open_dataset(label_studio_coco(tmp_path / "export", prefix))
    assert_cat_and_dog(dataset)
    assert dataset.notes[0].startswith("images not where the label file says, found by name: 2 (")


def test_names_that_lead_to_one_file_are_not_guessed(tmp_path: Path) -> None:
    tables = export_tables(["/data/upload/1/a.jpg", "/data/upload/2/a.jpg"])
    write_json(tmp_path / "result.json", tables)
    write_picture(tmp_path / "images" / "a.jpg")
    with pytest.raises(DatasetError, match="images whose name fits several entries, dropped: 2"):
        open_dataset(tmp_path)


def test_a_file_that_an_entry_names_belongs_to_no_other(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", export_tables(["images/a.jpg", "/data/upload/2/a.jpg"]))
    write_picture(tmp_path / "images" / "a.jpg")
    dataset = open_dataset(tmp_path)
    assert [sample.labels.tolist() for sample in dataset.samples] == [[0]]
    assert dataset.notes == ["images whose name fits several entries, dropped: 1 (/data/upload/2/a.jpg)"]


def test_cvats_own_xml_is_named(tmp_path: Path) -> None:
    write_picture(tmp_path / "images" / "a.jpg")
    (tmp_path / "annotations.xml").write_text("<annotations><image id='0' name='a.jpg'/></annotations>")
    with pytest.raises(DatasetError, match=r"annotations\.xml has <annotations>, not <annotation>"):
        open_dataset(tmp_path)


def test_classes_of_a_labelmap_come_in_its_order_with_those_without_boxes(tmp_path: Path) -> None:
    folder = cvat_voc(tmp_path)
    lines = ("# label:color_rgb:parts:actions", "zebra: grevy:1,2,3::", "dog:0,128,0::", "background:0,0,0::")
    (folder / "labelmap.txt").write_text("\n".join(lines))
    assert open_dataset(folder).labels == ("zebra: grevy", "dog", "cat")
    (folder / "labelmap.txt").write_text("background:1,2,3::\n")  # a class like any other
    assert open_dataset(folder).labels == ("background", "cat", "dog")


@pytest.mark.parametrize("by_split", [True, False])
def test_a_yaml_of_names_alone_as_supervision_writes_it(by_split: bool, tmp_path: Path) -> None:
    """Its `as_yolo` writes images, labels and the names, wherever the user says; mostly beside each other."""
    for split in ("train", "valid") if by_split else ("",):
        for name, line in (("a", CAT_LINE), ("b", DOG_LINE)):
            write_picture(tmp_path / split / "images" / f"{name}.jpg")
            write_lines(tmp_path / split / "labels" / f"{name}.txt", line)
    write_lines(tmp_path / "data.yaml", "names:", "- cat", "- dog", "nc: 2")
    assert list_splits(tmp_path) == (("train", "valid") if by_split else ("all",))
    dataset = open_dataset(tmp_path, "val" if by_split else None)
    assert_cat_and_dog(dataset)
    assert dataset.notes == []


def test_a_yaml_of_names_without_labels_names_no_images(tmp_path: Path) -> None:
    write_picture(tmp_path / "images" / "a.jpg")
    write_lines(tmp_path / "data.yaml", "names: [cat, dog]")
    with pytest.raises(DatasetError, match="names no images, expected train, val and names, or images/ and labels/"):
        open_dataset(tmp_path)


def test_settings_of_darknet_are_no_splits(tmp_path: Path) -> None:
    with (cvat_yolo(tmp_path) / "obj.data").open("a") as file:
        file.write("eval = coco\nresults = results/\ntop = 5\nlabels = data/labels.list\n")
    assert list_splits(tmp_path) == ("train",)
    assert_cat_and_dog(open_dataset(tmp_path))
