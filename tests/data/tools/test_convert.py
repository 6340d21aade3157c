"""Datasets written in other formats, and split."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools.coco import COCO

import dyzoo.data.tools.writing
from dyzoo.data import DetectionDataset, convert_dataset, list_splits, open_dataset
from dyzoo.errors import DatasetError
from tests.data.data_builders import (
    CAT_LINE,
    EXPORTS,
    cvat_coco,
    export_tables,
    label_studio_yolo,
    roboflow_coco,
    write_json,
    write_lines,
    write_picture,
    write_voc,
    write_yolo,
)

FORMATS = ("coco", "yolo", "voc")


def odd_coco(folder: Path) -> Path:
    """Names and boxes that formats stumble over; the picture's grey value tells which it is."""
    names = ["x/a.jpg", "y/a.jpg", "y/A.png", "two words.jpg", "Größe 尺.jpg", "a.jpg.png", "images/b.jpg", "-1.bmp"]
    for split in ("train", "valid"):
        for grey, name in enumerate(names):
            path = folder / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (61, 47), 10 * grey).save(path)
        rng = np.random.default_rng(len(split))
        annotations = []
        for image_id in range(2, len(names)):  # the first two show nothing
            for _ in range(5):
                x, y, width, height = rng.uniform((0, 0, 2, 2), (40, 30, 20, 16)).round(2).tolist()
                annotation = {"id": len(annotations), "image_id": image_id, "category_id": int(rng.choice([4, 9, 11]))}
                annotations.append({**annotation, "bbox": [x, y, width, height], "iscrowd": 0})
        categories = [
            {"id": 9, "name": "no"},
            {"id": 4, "name": "Vögel: alle, <klein>"},
            {"id": 7, "name": "never seen"},
            {"id": 11, "name": "007"},
        ]
        images = [{"id": n, "file_name": name} for n, name in enumerate(names)]
        tables = {"images": images, "annotations": annotations, "categories": categories}
        write_json(folder / "annotations" / f"instances_{split}.json", tables)
    return folder


def contents(dataset: DetectionDataset) -> dict[int, tuple[list[int], np.ndarray]]:
    """Grey value of an image -> its labels and boxes."""
    found = {}
    for sample in dataset.samples:
        order = np.lexsort(sample.boxes_xyxy.round(1).T)
        with Image.open(sample.image_path) as image:
            key = round(np.asarray(image.convert("L")).mean() / 10)
        assert key not in found
        found[key] = (sample.labels[order].tolist(), sample.boxes_xyxy[order])
    return found


def assert_same(first: DetectionDataset, second: DetectionDataset) -> None:
    assert first.labels == second.labels
    ours, theirs = contents(first), contents(second)
    assert ours.keys() == theirs.keys()
    for key, (labels, boxes) in ours.items():
        assert labels == theirs[key][0]
        assert np.allclose(boxes, theirs[key][1], atol=0.02)


@pytest.mark.parametrize("link", [True, False])
def test_around_all_formats_and_back(link: bool, tmp_path: Path) -> None:
    source = odd_coco(tmp_path / "start")
    labels = ("Vögel: alle, <klein>", "never seen", "no", "007")
    folder = source
    for to in ("yolo", "voc", "coco", "voc", "yolo", "coco"):
        conversion = convert_dataset(folder, tmp_path / f"{folder.name}-{to}", to, link=link)
        folder = conversion.folder
        assert list_splits(folder) == ("train", "val")
        assert conversion.images == {"train": 8, "val": 8}
        assert conversion.boxes == {"train": 30, "val": 30}
        for split in ("train", "val"):
            written = open_dataset(folder, split)
            assert written.labels == labels
            assert written.notes == []
            assert_same(open_dataset(source, split), written)
    assert os.stat(folder / "train" / "two words.jpg").st_nlink == (7 if link else 1)  # noqa: PTH116


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("build", EXPORTS)
def test_every_export_becomes_every_format(build: Callable[[Path], Path], to: str, tmp_path: Path) -> None:
    conversion = convert_dataset(build(tmp_path / "export"), tmp_path / "new", to)
    for split, images in conversion.images.items():
        dataset = open_dataset(tmp_path / "new", split)
        assert (len(dataset), images, dataset.labels, dataset.notes) == (2, 2, ("cat", "dog"), [])
        boxes = sorted(box for sample in dataset.samples for box in sample.boxes_xyxy.tolist())
        assert np.allclose(boxes, [[1, 2, 11, 22], [20, 10, 35, 25]], atol=0.01)


def test_coco_keeps_its_ids_and_pleases_pycocotools(tmp_path: Path) -> None:
    convert_dataset(odd_coco(tmp_path / "start"), tmp_path / "coco", "coco")
    ours = COCO(tmp_path / "coco" / "annotations" / "instances_val.json")
    assert ours.getCatIds() == [4, 7, 9, 11]
    assert len(ours.getAnnIds(imgIds=[5])) == 5
    assert all(row["area"] > 0 and row["iscrowd"] == 0 for row in ours.loadAnns(ours.getAnnIds()))


def test_yolo_is_as_ultralytics_reads_it(tmp_path: Path) -> None:
    folder = cvat_coco(tmp_path / "start")
    Image.new("RGB", (40, 30), "red").save(folder / "images" / "default" / "b.jpg")  # or nothing could be split
    convert_dataset(folder, tmp_path / "yolo", "yolo", val_fraction=0.5)
    content = yaml.safe_load((tmp_path / "yolo" / "data.yaml").read_text())
    assert content == {"train": "images/train", "val": "images/val", "names": {0: "cat", 1: "dog"}}
    lines = {path.name: path.read_text() for path in (tmp_path / "yolo" / "labels").rglob("*.txt")}
    assert lines == {"a.txt": "0 0.15 0.4 0.25 0.66666667\n", "b.txt": "1 0.6875 0.58333333 0.375 0.5\n"}


def crowded_coco(folder: Path) -> Path:
    tables = export_tables()
    tables["annotations"][1]["iscrowd"] = 1
    write_json(folder / "annotations" / "instances_train.json", tables)
    for name in ("a.jpg", "b.jpg"):
        write_picture(folder / "train" / name)
    return folder


def test_crowd_regions_become_difficult_objects_and_back(tmp_path: Path) -> None:
    there = convert_dataset(crowded_coco(tmp_path / "start"), tmp_path / "voc", "voc")
    assert there.notes == ["crowd regions, written as difficult objects: 1 (b.jpg)"]
    back = convert_dataset(tmp_path / "voc", tmp_path / "coco", "coco")
    assert back.notes == ["difficult objects, written as crowd regions: 1 (b.jpg)"]
    assert [sample.crowd.tolist() for sample in open_dataset(tmp_path / "coco").samples] == [[False], [True]]


def test_yolo_does_without_crowd_regions_and_says_so(tmp_path: Path) -> None:
    conversion = convert_dataset(crowded_coco(tmp_path / "start"), tmp_path / "yolo", "yolo")
    assert conversion.boxes == {"train": 1}
    assert "crowd regions and difficult objects, which YOLO cannot hold, left out: 1 (b.jpg)" in conversion.notes
    assert [sample.labels.tolist() for sample in open_dataset(tmp_path / "yolo").samples] == [[0], []]


def test_what_is_dropped_or_renamed_is_said(tmp_path: Path) -> None:
    folder = write_voc(tmp_path / "voc", {"a": [("cat", (1, 2, 11, 22)), ("cat", (5, 5, 5, 5))], "b": []}, fold=["a"])
    write_lines(folder / "ImageSets" / "Main" / "fold.txt", "a", "b", "gone")
    notes = convert_dataset(folder, tmp_path / "yolo", "yolo").notes
    assert notes == [
        "images without a label file, dropped: 1 (gone)",
        "boxes without area, dropped: 1 (a.jpg at 5 5 5 5)",
        "splits that YOLO has no word for, called train: 1 (fold)",
    ]
    notes = convert_dataset(odd_coco(tmp_path / "odd"), tmp_path / "odd-voc", "voc").notes
    assert notes[0] == "images renamed: 11 (a.jpg -> a_2.jpg, A.png -> A_3.png, a.jpg.png -> a_jpg.png, ...)"


def test_lists_that_repeat_others_are_left_out(tmp_path: Path) -> None:
    cat = ("cat", (1, 2, 11, 22))
    folder = write_voc(tmp_path / "voc", {"a": [cat], "b": [cat]}, train=["a"], val=["b"], trainval=["a", "b"])
    conversion = convert_dataset(folder, tmp_path / "coco")
    assert conversion.images == {"train": 1, "val": 1}
    assert conversion.notes == ["trainval: left out, it repeats images of the other splits"]


def many(folder: Path, common: int = 40, rare: int = 5) -> Path:
    """Noise, of which every fourth picture is there twice; the first `rare` show a dog."""
    rng = np.random.default_rng(0)
    for index in range(common):
        path = folder / "images" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if index % 4 == 1:
            path.write_bytes((folder / "images" / f"{index - 1}.png").read_bytes())
        else:
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
        write_lines(folder / "labels" / f"{index}.txt", CAT_LINE, *(["1 0.5 0.5 0.5 0.5"] if index < rare else []))
    write_lines(folder / "classes.txt", "cat", "dog")
    return folder


def test_a_split_is_seeded_of_every_class_and_without_leaks(tmp_path: Path) -> None:
    source = many(tmp_path / "source")
    chosen = []
    for run, seed in enumerate((0, 0, 1)):
        conversion = convert_dataset(source, tmp_path / str(run), val_fraction=0.25, seed=seed, link=True)
        assert conversion.images == {"train": 30, "val": 10}
        train, val = (open_dataset(tmp_path / str(run), split) for split in ("train", "val"))
        bytes_of = [{sample.image_path.read_bytes() for sample in each.samples} for each in (train, val)]
        assert not bytes_of[0] & bytes_of[1]
        for each in (train, val):
            assert any(1 in sample.labels for sample in each.samples)
        chosen.append([sample.image_path.name for sample in val.samples])
    assert chosen[0] == chosen[1] != chosen[2]


def test_only_training_images_are_split(tmp_path: Path) -> None:
    folder = roboflow_coco(tmp_path / "start")
    for path in (*(folder / "valid").iterdir(), folder / "valid"):
        path.unlink() if path.is_file() else path.rmdir()
    write_picture(folder / "train" / "b.jpg", (40, 31))  # or nothing could be split
    conversion = convert_dataset(folder, tmp_path / "new", val_fraction=0.5)
    assert conversion.images == {"train": 1, "val": 1, "test": 2}


@pytest.mark.parametrize(
    ("build", "fraction", "words"),
    [
        (roboflow_coco, 0.2, "has a split for validation already, val"),
        (label_studio_yolo, 1.0, "the share for validation is 1, expected more than 0 and less than 1"),
        (label_studio_yolo, 0.0, "the share for validation is 0"),
        (label_studio_yolo, float("nan"), "the share for validation is nan"),
        (label_studio_yolo, 0.2, "1 different images cannot be split"),
    ],
)
def test_what_cannot_be_split(build: Callable[[Path], Path], fraction: float, words: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=words):
        convert_dataset(build(tmp_path / "start"), tmp_path / "new", val_fraction=fraction)
    assert not (tmp_path / "new").exists()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    source = write_yolo(tmp_path / "start")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").touch()
    (tmp_path / "file").touch()
    for out, words in (("full", "is not empty"), ("file", "is a file"), ("start/new", "lies in"), ("start", "lies in")):
        with pytest.raises(DatasetError, match=words):
            convert_dataset(source, tmp_path / out)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["precious"]
    (tmp_path / "empty").mkdir()
    assert convert_dataset(source, tmp_path / "empty").images == {"train": 1}


def test_what_fails_or_was_killed_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_yolo(tmp_path / "start")
    (tmp_path / ".new.part" / "train").mkdir(parents=True)
    (tmp_path / ".new.part" / "train" / "old.jpg").touch()

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(dyzoo.data.tools.writing.shutil, "copyfile", full)
        with pytest.raises(OSError, match="No space left"):
            convert_dataset(source, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["start"]
    convert_dataset(source, tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new" / "train").iterdir()) == ["a.jpg"]


def test_what_no_format_can_hold_is_an_error(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path / "start", names='["a\\nb", "c"]')
    with pytest.raises(DatasetError, match=r"class name 'a\\nb' has characters"):
        convert_dataset(folder, tmp_path / "new")
    cat = ("cat", (1, 2, 11, 22))
    folds = write_voc(tmp_path / "folds", {"a": [cat], "b": [cat]}, fold1=["a"], fold2=["b"])
    with pytest.raises(DatasetError, match="YOLO's splits are train, val, test, it cannot hold fold1, fold2"):
        convert_dataset(folds, tmp_path / "new", "yolo")
    assert list_splits(convert_dataset(folds, tmp_path / "new", "coco").folder) == ("fold1", "fold2")
    with pytest.raises(DatasetError, match="format 'tfrecord' is unknown"):
        convert_dataset(folds, tmp_path / "newer", "tfrecord")


def test_a_split_that_cannot_be_read_stops_it(tmp_path: Path) -> None:
    folder = roboflow_coco(tmp_path / "start")
    (folder / "valid" / "_annotations.coco.json").write_text("{")
    with pytest.raises(DatasetError, match=r"valid/_annotations\.coco\.json is not JSON"):
        convert_dataset(folder, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_boxes_that_rounding_makes_one_are_no_failure(tmp_path: Path) -> None:
    tables = export_tables()
    extra = {**tables["annotations"][0], "id": 9, "bbox": [1.00001, 2, 10, 20]}
    sliver = {**tables["annotations"][0], "id": 10, "bbox": [3, 2, 0.0104, 20]}
    tables["annotations"] += [extra, sliver]
    write_json(tmp_path / "start" / "result.json", tables)
    for name in ("a.jpg", "b.jpg"):
        write_picture(tmp_path / "start" / "images" / name)
    for to in FORMATS:
        convert_dataset(tmp_path / "start", tmp_path / to, to)


def test_blood_cells_around_all_formats(bccd_folder: Path, tmp_path: Path) -> None:
    folder = bccd_folder
    for to in ("coco", "yolo", "voc", "coco"):
        folder = convert_dataset(folder, tmp_path / f"{folder.name}-{to}", to, link=folder != bccd_folder).folder
    assert list_splits(folder) == ("train", "val")
    for split in ("train", "val"):
        ours, theirs = open_dataset(bccd_folder, split), open_dataset(folder, split)
        assert (theirs.labels, theirs.notes) == (ours.labels, [])
        for first, second in zip(ours.samples, theirs.samples, strict=True):
            assert first.image_path.name == second.image_path.name
            assert first.labels.tolist() == second.labels.tolist()
            assert np.abs(first.boxes_xyxy - second.boxes_xyxy).max(initial=0) < 0.01
