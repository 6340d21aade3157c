"""Pictures that a detector labels: datasets that read back, and files that annotation tools import."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from dyzoo.cli import run
from dyzoo.data import label_images, list_splits, open_dataset
from dyzoo.errors import DatasetError, ImageError
from dyzoo.images.detections import Detections
from dyzoo.zoo.catalog import sample_image
from tests.data.data_builders import write_picture

NAMES = ("cat", "dög", "<b>bird</b>")


class Scripted:
    """A detector that finds the same in every picture, and cannot read those called `bad`."""

    labels = NAMES

    def predict(self, images: Any, threshold: float, **settings: Any) -> Any:
        assert settings == {"stream": True, "on_error": "return"}
        boxes = torch.tensor([[1.0, 2, 30, 20], [5, 5, 25, 35], [0, 0, 40, 30], [3, 3, 3.01, 9]])
        found = Detections(boxes, torch.tensor([0.9, 0.6, 0.4, 0.8]), torch.tensor([0, 1, 2, 0]), NAMES, (40, 50))
        for path in images:
            yield ImageError(f"{path} cannot be read") if path.stem == "bad" else found.filter(threshold)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "photos" / name for name in ("a.png", "b c.png", "ü.png")]
    for path in paths:
        write_picture(path, (50, 40))
    return paths


@pytest.mark.parametrize("to", ["coco", "voc", "yolo"])
def test_a_dataset_reads_back_with_what_is_above_the_thresholds(pictures: list[Path], tmp_path: Path, to: Any) -> None:
    labelling = label_images(Scripted(), pictures, tmp_path / "new", to, threshold=0.5, thresholds={NAMES[2]: 0.3})
    assert labelling.images == 3
    assert labelling.boxes == {"cat": 3, "dög": 3, "<b>bird</b>": 3}
    assert list_splits(tmp_path / "new") == ("train",)
    dataset = open_dataset(tmp_path / "new")
    assert dataset.labels == NAMES
    assert dataset.notes == []
    for sample in dataset.samples:
        assert sample.labels.tolist() == [0, 1, 2]
        assert sample.boxes_xyxy[0].tolist() == pytest.approx([1, 2, 30, 20], abs=0.01)


def test_classes_are_chosen_and_ordered(pictures: list[Path], tmp_path: Path) -> None:
    label_images(Scripted(), pictures, tmp_path / "new", classes=["dög", "cat"])
    dataset = open_dataset(tmp_path / "new")
    assert dataset.labels == ("dög", "cat")
    assert dataset.samples[0].labels.tolist() == [1, 0]


def test_label_studio_has_shares_of_the_picture_in_percent(pictures: list[Path], tmp_path: Path) -> None:
    label_images(Scripted(), pictures, tmp_path / "new", "label-studio", threshold=0.5, model_name="mine")
    tasks = json.loads((tmp_path / "new" / "tasks.json").read_text(encoding="utf-8"))
    assert [task["data"]["image"] for task in tasks] == [
        "/data/local-files/?d=images/a.png",
        "/data/local-files/?d=images/b%20c.png",
        "/data/local-files/?d=images/%C3%BC.png",
    ]
    (prediction,) = tasks[0]["predictions"]
    assert prediction["model_version"] == "mine"
    first = prediction["result"][0]
    assert (first["from_name"], first["to_name"], first["type"]) == ("label", "image", "rectanglelabels")
    assert (first["original_width"], first["original_height"]) == (50, 40)
    edges = [first["value"][key] for key in ("x", "y", "width", "height")]
    assert edges == pytest.approx([2, 5, 58, 45])
    text = (tmp_path / "new" / "label_config.xml").read_text(encoding="utf-8")
    view = ElementTree.fromstring(text)  # as text, which may not declare an encoding
    assert text.startswith("<View>")
    assert [element.get("value") for element in view.iter("Label")] == list(NAMES)
    assert (tmp_path / "new" / "images" / "b c.png").read_bytes() == pictures[1].read_bytes()


def test_cvat_has_pixels(pictures: list[Path], tmp_path: Path) -> None:
    label_images(Scripted(), pictures, tmp_path / "new", "cvat", threshold=0.5)
    root = ElementTree.parse(tmp_path / "new" / "annotations.xml").getroot()
    assert root.findtext("version") == "1.1"
    assert [name.text for name in root.findall("meta/task/labels/label/name")] == list(NAMES)
    images = list(root.iter("image"))
    assert [image.get("name") for image in images] == ["a.png", "b c.png", "ü.png"]
    box = images[0].find("box")
    assert box is not None
    assert [box.get(key) for key in ("label", "xtl", "ytl", "xbr", "ybr")] == ["cat", "1.00", "2.00", "30.00", "20.00"]


def test_a_picture_that_cannot_be_read_is_left_out(pictures: list[Path], tmp_path: Path) -> None:
    labelling = label_images(Scripted(), [tmp_path / "bad.png", *pictures], tmp_path / "new")
    assert [str(error) for error in labelling.failures] == [f"{tmp_path / 'bad.png'} cannot be read"]
    assert len(open_dataset(tmp_path / "new")) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"to": "csv"}, "format 'csv' is unknown, expected one of coco, voc"),
        ({"classes": ["cat", "horse"]}, "knows no class 'horse', expected some of cat, dög"),
        ({"classes": ["cat", "cat"]}, "none twice"),
        ({"classes": []}, "classes are none"),
        ({"thresholds": {"horse": 0.5}}, "threshold for 'horse'"),
        ({"thresholds": {"cat": float("nan")}}, "threshold of 'cat' is nan, expected 0 to 1"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(
    pictures: list[Path], tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        label_images(Scripted(), pictures, tmp_path / "new", **settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


@pytest.mark.parametrize("to", ["coco", "cvat"])
def test_a_folder_that_is_taken_stays_as_it_is(pictures: list[Path], tmp_path: Path, to: Any) -> None:
    with pytest.raises(DatasetError, match="photos is not empty"):
        label_images(Scripted(), pictures, tmp_path / "photos", to)
    with pytest.raises(DatasetError, match=r"none of 1 pictures can be labelled: .*bad"):
        label_images(Scripted(), [tmp_path / "bad.png"], tmp_path / "new", to)
    assert sorted(path.name for path in (tmp_path / "photos").iterdir()) == ["a.png", "b c.png", "ü.png"]
    assert not (tmp_path / "new").exists()


def test_the_command_labels_with_the_embedded_detector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    os.mkfifo(tmp_path / "pipe.jpg")
    command = ["data", "label", str(sample_image()), "broken.jpg", "pipe.jpg", "-o", "cells", "--classes", "WBC,RBC"]
    assert run([*command, "--class-threshold", "RBC=0.5", "--to", "yolo"]) == 1
    output = capsys.readouterr()
    assert "1 image: " in output.out
    assert "RBC" in output.out
    assert len([line for line in output.err.splitlines() if line.startswith("error: ")]) == 2
    dataset = open_dataset("cells")
    assert dataset.labels == ("WBC", "RBC")
    assert set(dataset.samples[0].labels.tolist()) == {0, 1}
    assert run([*command, "--class-threshold", "RBC"]) == 2
    assert "'RBC' is no NAME=X such as RBC=0.5" in capsys.readouterr().err


def test_what_is_no_picture_is_named_and_left_out(pictures: list[Path], tmp_path: Path) -> None:
    others = [tmp_path / name for name in ("film.mp4", "archive.zip", "list.txt")]
    for path in others:
        path.touch()
    labelling = label_images(Scripted(), [others[0], *pictures, *others[1:]], tmp_path / "new")
    assert labelling.images == 3
    left_out = [f"{path} is no picture, expected an image file" for path in others]
    assert [str(error) for error in labelling.failures] == left_out
