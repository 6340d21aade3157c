"""Choosing the format, the split and the labels of a folder."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dyzoo.data import check_dataset, open_dataset
from dyzoo.data.formats.splits import split_kind
from dyzoo.errors import DatasetError
from tests.data.data_builders import coco_tables, write_coco, write_picture, write_voc, write_yolo

CAT, DOG = ("cat", (1, 2, 11, 22)), ("dog", (5, 5, 20, 15))


def test_both_formats_of_one_content_give_the_same_samples(tmp_path: Path) -> None:
    voc = open_dataset(write_voc(tmp_path / "voc", {"a": [("dog", (1, 2, 11, 22))], "b": [("cat", (5, 6, 9, 9))]}))
    boxes = [
        {"id": 1, "image_id": 7, "category_id": 18, "bbox": [1, 2, 10, 20]},
        {"id": 2, "image_id": 9, "category_id": 3, "bbox": [5, 6, 4, 3]},
    ]
    coco = open_dataset(write_coco(tmp_path / "coco", coco_tables(annotations=boxes)))
    assert voc.labels == coco.labels
    for ours, theirs in zip(voc.samples, coco.samples, strict=True):
        assert ours.image_path.name == theirs.image_path.name
        for name in ("boxes_xyxy", "labels", "crowd"):
            assert np.array_equal(getattr(ours, name), getattr(theirs, name))
            assert getattr(ours, name).dtype == getattr(theirs, name).dtype


def test_given_labels_decide_order_and_choice(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [CAT, DOG], "b": [CAT]})
    dataset = open_dataset(tmp_path, labels=["fish", "dog"])
    assert dataset.labels == ("fish", "dog")
    assert [sample.labels.tolist() for sample in dataset.samples] == [[1], []]
    assert dataset.notes == ["objects of a class that is not among the labels, dropped: 2 (cat in a.jpg, cat in b.jpg)"]
    assert len(set(dataset.category_ids)) == 2


def test_category_ids_of_the_file_survive_given_labels(tmp_path: Path) -> None:
    dataset = open_dataset(write_coco(tmp_path), labels=["dog", "fish", "cat", "cow"])
    assert dataset.category_ids == (18, 19, 3, 20)


def test_labels_that_fit_nothing_are_an_error_that_says_what_is_there(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [CAT]})
    with pytest.raises(DatasetError, match=r"no usable object: objects of a class.*cat in a\.jpg"):
        open_dataset(tmp_path, labels=["person"])
    with pytest.raises(DatasetError, match="twice"):
        open_dataset(tmp_path, labels=["cat", "cat"])


def test_half_a_character_in_a_class_name_is_refused_in_every_format_that_can_hold_it(tmp_path: Path) -> None:
    yolo = write_yolo(tmp_path / "yolo", names='["\\ud800", dog]')
    coco = write_coco(
        tmp_path / "coco", coco_tables(categories=[{"id": 3, "name": "\ud800"}, {"id": 18, "name": "dog"}])
    )
    for folder in (yolo, coco):
        with pytest.raises(DatasetError, match=r"'\\ud800'") as caught:
            open_dataset(folder)
        str(caught.value).encode()
    (finding,) = (each for each in check_dataset(coco).findings if "cannot be read" in each.kind)
    assert "half a character" in str(finding)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_in_file_names_are_written_in_either_way(form: str, tmp_path: Path) -> None:
    name, other = (unicodedata.normalize(each, "Größe é.jpg") for each in (form, {"NFC": "NFD", "NFD": "NFC"}[form]))
    images = [{"id": 7, "file_name": other}, {"id": 9, "file_name": "b.jpg"}]
    write_picture(write_coco(tmp_path, coco_tables(images=images)) / "train" / name)
    dataset = open_dataset(tmp_path)
    assert [sample.image_path.name for sample in dataset.samples] == [name, "b.jpg"]
    assert dataset.notes == []


def test_unreadable_images_are_noted(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [CAT], "b": [CAT], "c": [CAT]})
    (tmp_path / "JPEGImages" / "b.jpg").write_text("no picture")
    (tmp_path / "JPEGImages" / "c.jpg").write_bytes(b"")
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 1
    assert dataset.notes[0].startswith("images that cannot be opened, dropped: 2 (")


def test_size_of_a_rotated_photo_is_that_of_the_upright_one(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [("cat", (1, 2, 25, 38))]})
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "JPEGImages" / "a.jpg", exif=exif)
    dataset = open_dataset(tmp_path)
    sample = dataset.samples[0]
    assert (sample.width_px, sample.height_px) == (30, 40)
    assert sample.boxes_xyxy.tolist() == [[1, 2, 25, 38]]
    assert dataset[0][0].shape == (3, 40, 30)
    assert "a.jpg: (30, 40), not (40, 30)" in dataset.notes[0]


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda folder: None, "is absent, expected a dataset folder"),
        (lambda folder: folder.write_text(""), "is a file, expected a dataset folder"),
        (lambda folder: folder.mkdir(), "is empty, expected Pascal VOC"),
        (lambda folder: (folder / "sub").mkdir(parents=True), "is of no known format"),
    ],
)
def test_no_dataset_folder(prepare, words: str, tmp_path: Path) -> None:
    prepare(tmp_path / "set")
    with pytest.raises(DatasetError, match=words):
        open_dataset(tmp_path / "set", "train")


def test_notes_stay_short(tmp_path: Path) -> None:
    nameless = [{"id": number} for number in range(50)]
    long_name = {"id": 100, "file_name": "long\n" * 100}
    write_coco(tmp_path, coco_tables(images=[*coco_tables()["images"], long_name, *nameless]))
    dataset = open_dataset(tmp_path)
    assert len(dataset.notes) == 2
    assert all("\n" not in note and len(note) < 500 for note in dataset.notes)
    assert any(note.endswith("({'id': 0}, {'id': 1}, {'id': 2}, ...)") for note in dataset.notes)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("train", "train"),
        ("valid", "val"),
        ("Validation", "val"),
        ("cells_val2017", "val"),
        ("test-dev", "test"),
        ("trainval", None),
        ("default", None),
    ],
)
def test_split_kind(name: str, kind: str | None) -> None:
    assert split_kind(name) == kind


def test_names_that_are_no_usual_split_have_to_agree(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [CAT]}, fold1=["a"])
    assert len(open_dataset(tmp_path, "fold1")) == 1
    with pytest.raises(DatasetError, match="no split 'fold2', available: fold1"):
        open_dataset(tmp_path, "fold2")


def test_a_json_that_is_no_dataset_is_named(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text(json.dumps({"name": "x"}))
    with pytest.raises(DatasetError, match=r"package\.json has no list of 'images'"):
        open_dataset(tmp_path)
