"""Where the splits, the label files and the images of a Pascal VOC folder are found."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from dyzoo.data import convert_dataset, list_splits, open_dataset
from dyzoo.errors import DatasetError
from tests.data.data_builders import write_lines, write_picture, write_voc, write_xml

CAT, DOG = ("cat", (1, 2, 11, 22)), ("dog", (5, 5, 20, 15))


def found(folder: Path, split: str) -> list[str]:
    """Images of a split, as paths in the folder; there is nothing to note."""
    dataset = open_dataset(folder, split)
    assert dataset.notes == []
    return [sample.image_path.relative_to(folder).as_posix() for sample in dataset.samples]


@pytest.mark.parametrize("images", ["images/{}", "JPEGImages/{}", "{}", "images"])
@pytest.mark.parametrize("labels", ["Annotations", "annotations"])
def test_folders_of_label_files_that_are_called_after_splits_are_splits(
    labels: str, images: str, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    for split, name in (("train", "a"), ("train", "b"), ("val", "c")):
        write_picture(folder / images.format(split) / f"{name}.jpg")
        write_xml(folder / labels / split / f"{name}.xml", CAT)
    assert list_splits(folder) == ("train", "val")
    assert found(folder, "train") == [f"{images.format('train')}/{name}.jpg" for name in "ab"]
    assert found(folder, "val") == [f"{images.format('val')}/c.jpg"]
    assert convert_dataset(folder, tmp_path / "out").images == {"train": 2, "val": 1}


def test_images_of_one_name_in_two_splits_stay_apart(tmp_path: Path) -> None:
    for split, label_folder in (("train", "train"), ("valid", "val")):
        write_picture(tmp_path / "images" / split / "a.jpg")
        write_xml(tmp_path / "annotations" / label_folder / "a.xml", CAT)
    assert found(tmp_path, "train") == ["images/train/a.jpg"]
    assert found(tmp_path, "val") == ["images/valid/a.jpg"]


def test_an_image_without_a_label_file_is_noted_in_its_own_split(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_picture(tmp_path / "images" / split / "a.jpg")
        write_xml(tmp_path / "annotations" / split / "a.xml", CAT)
    write_picture(tmp_path / "images" / "val" / "new.jpg")
    assert found(tmp_path, "train") == ["images/train/a.jpg"]
    assert open_dataset(tmp_path, "val").notes == ["images without a label file, dropped: 1 (new)"]


def test_other_folders_of_label_files_are_one_split(tmp_path: Path) -> None:
    for day in ("day 1", "train station"):
        write_picture(tmp_path / "JPEGImages" / day / "a.jpg")
        write_xml(tmp_path / "Annotations" / day / "a.xml", CAT)
    assert list_splits(tmp_path) == ("all",)
    assert found(tmp_path, "all") == ["JPEGImages/day 1/a.jpg", "JPEGImages/train station/a.jpg"]


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "{}.jpg",
        "JPEGImages/{}.jpg",
        "./JPEGImages/{}.jpg ./Annotations/{}.xml",
        "/home/me/VOC/JPEGImages/{}.jpg",
        "C:\\VOC\\JPEGImages\\{}.jpg",
    ],
)
@pytest.mark.parametrize("suffix", ["", "_list"])
def test_lists_beside_the_folders_are_splits(suffix: str, line: str, tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [CAT], "b": [DOG], "c": [CAT]})
    write_lines(tmp_path / f"train{suffix}.txt", *(line.format(name, name) for name in ("c", "a")))
    write_lines(tmp_path / f"val{suffix}.txt", line.format("b", "b"))
    for other in ("label_list", "classes", "cat_train", "test notes"):
        write_lines(tmp_path / f"{other}.txt", "cat")
    assert list_splits(tmp_path) == (f"train{suffix}", f"val{suffix}")
    assert found(tmp_path, "train") == ["JPEGImages/c.jpg", "JPEGImages/a.jpg"]
    assert found(tmp_path, "val") == ["JPEGImages/b.jpg"]


def test_lists_beside_images_with_their_label_files_are_splits(tmp_path: Path) -> None:
    for name in "ab":
        write_picture(tmp_path / f"{name}.jpg")
        write_xml(tmp_path / f"{name}.xml", CAT)
    write_lines(tmp_path / "train.txt", "a")
    write_lines(tmp_path / "val.txt", "b.jpg")
    assert found(tmp_path, "val") == ["b.jpg"]


def test_a_name_listed_in_two_ways_is_taken_once(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [CAT]})
    write_lines(tmp_path / "train.txt", "a", "JPEGImages/a.jpg", "gone", "gone")
    dataset = open_dataset(tmp_path, "train")
    assert len(dataset) == 1
    assert dataset.notes == [
        "images listed more than once, taken once: 2 (JPEGImages/a, gone)",
        "images without a label file, dropped: 1 (gone)",
    ]


def test_an_image_that_two_label_files_lead_to_is_taken_once(tmp_path: Path) -> None:
    write_picture(tmp_path / "JPEGImages" / "a.jpg")
    write_picture(tmp_path / "JPEGImages" / "b.jpg")
    write_xml(tmp_path / "Annotations" / "1" / "a.xml", CAT)
    write_xml(tmp_path / "Annotations" / "2" / "a.xml", DOG)
    write_xml(tmp_path / "Annotations" / "0.xml", DOG, filename="b.jpg")
    write_xml(tmp_path / "Annotations" / "b.xml", CAT)
    dataset = open_dataset(tmp_path)
    assert [(each.image_path.stem, each.boxes_xyxy.tolist()) for each in dataset.samples] == [
        ("a", [[1, 2, 11, 22]]),
        ("b", [[1, 2, 11, 22]]),
    ]
    assert dataset.notes == ["label files of one image, first kept: 2 (0, 2/a)"]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_written_either_way_are_one_name(form: str, tmp_path: Path) -> None:
    name, other = (unicodedata.normalize(each, "Größe é") for each in (form, {"NFC": "NFD", "NFD": "NFC"}[form]))
    write_picture(tmp_path / "JPEGImages" / f"{name}.jpg")
    write_xml(tmp_path / "Annotations" / f"{other}.xml", CAT)
    write_lines(tmp_path / "ImageSets" / "Main" / "train.txt", name)
    assert found(tmp_path, "train") == [f"JPEGImages/{name}.jpg"]


def test_a_line_of_a_million_folders_is_no_name(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [CAT]}, train=["x/" * 1_000_000 + "a", "a"])
    dataset = open_dataset(tmp_path, "train")
    assert len(dataset) == 1
    assert dataset.notes[0].startswith("images without a label file, dropped: 1 (x/x/")


def test_a_list_called_as_no_file_can_be_is_refused(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [CAT]}, **{"..": ["a"]})
    with pytest.raises(DatasetError, match="expected a plain file name"):
        list_splits(tmp_path)


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    write_picture(tmp_path / "other" / "a.jpg")
    write_xml(tmp_path / "labels" / "a.xml", CAT)
    folder = write_voc(tmp_path / "set", {"b": [CAT]})
    (folder / "JPEGImages" / "more").symlink_to(tmp_path / "other")
    (folder / "Annotations" / "more").symlink_to(tmp_path / "labels")
    (folder / "JPEGImages" / "circle").symlink_to(folder)
    dataset = open_dataset(folder)
    assert [sample.image_path.stem for sample in dataset.samples] == ["b", "a"]
    assert [note.partition(":")[0] for note in dataset.notes] == [
        "folders linked from outside the dataset folder, read"
    ]
