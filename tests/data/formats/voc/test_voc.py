"""Pascal VOC folders, clean and dirty."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from dyzoo.data import list_splits, open_dataset
from dyzoo.errors import DatasetError
from tests.data.data_builders import write_picture, write_voc, write_xml

CAT = ("cat", (1, 2, 11, 22))
DOG = ("dog", (5, 5, 20, 15))


def test_boxes_are_pixel_edges_as_written_and_classes_are_sorted(tmp_path: Path) -> None:
    dataset = open_dataset(write_voc(tmp_path, {"a": [DOG, CAT], "b": []}, train=["b", "a"]), "train")
    assert dataset.labels == ("cat", "dog")
    assert dataset.category_ids == (1, 2)
    assert dataset.notes == []
    empty, full = dataset.samples
    assert (empty.image_path.name, len(empty.labels), empty.boxes_xyxy.shape) == ("b.jpg", 0, (0, 4))
    assert full.boxes_xyxy.tolist() == [[5, 5, 20, 15], [1, 2, 11, 22]]
    assert full.labels.tolist() == [1, 0]
    assert (full.width_px, full.height_px) == (40, 30)
    assert (empty.image_id, full.image_id) == (1, 2)


def test_difficult_objects_are_ignored_regions(tmp_path: Path) -> None:
    dataset = open_dataset(write_voc(tmp_path, {"a": [(*CAT, 1), (*DOG, 0)]}))
    assert dataset.samples[0].crowd.tolist() == [True, False]
    assert dataset[0][1]["boxes"].tolist() == [[5, 5, 20, 15]]
    assert dataset[0][1]["labels"].tolist() == [1]


def test_split_lists(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [CAT], "b": [DOG]}, train=["a"], val=["b"], trainval=["a", "b"], cat_train=["a  1"])
    assert list_splits(tmp_path) == ("train", "trainval", "val")
    assert [sample.image_path.stem for sample in open_dataset(tmp_path, "trainval").samples] == ["a", "b"]
    with pytest.raises(DatasetError, match="several splits, name one of them: train, trainval, val"):
        open_dataset(tmp_path)
    with pytest.raises(DatasetError, match="no split 'test', available: train, trainval, val"):
        open_dataset(tmp_path, "test")


def test_images_with_xml_beside_them_in_natural_order(tmp_path: Path) -> None:
    for name in ("10", "9"):
        write_picture(tmp_path / f"{name}.png")
        write_xml(tmp_path / f"{name}.xml", CAT)
    dataset = open_dataset(tmp_path)
    assert [sample.image_path.name for sample in dataset.samples] == ["9.png", "10.png"]


def test_split_folders(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        write_picture(tmp_path / split / f"of_{split}.jpg")
        write_xml(tmp_path / split / f"of_{split}.xml", CAT)
    assert list_splits(tmp_path) == ("train", "valid")
    assert open_dataset(tmp_path, "val").samples[0].image_path.name == "of_valid.jpg"


def test_lowercase_folders_without_lists(tmp_path: Path) -> None:
    write_picture(tmp_path / "images" / "a.png")
    write_xml(tmp_path / "annotations" / "a.xml", CAT)
    assert len(open_dataset(tmp_path)) == 1


def test_renamed_image_is_found_by_the_name_in_its_label_file(tmp_path: Path) -> None:
    write_picture(tmp_path / "JPEGImages" / "photo.jpg")
    write_xml(tmp_path / "Annotations" / "label.xml", CAT, filename="C:/camera/photo.jpg")
    dataset = open_dataset(tmp_path)
    assert [sample.image_path.name for sample in dataset.samples] == ["photo.jpg"]
    assert dataset.notes == []


def test_images_without_labels_are_left_out(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [CAT]})
    write_picture(tmp_path / "JPEGImages" / "new.jpg")
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 1
    assert dataset.notes == ["images without a label file, dropped: 1 (new)"]


def test_dirty_lists_and_files_are_noted_and_the_rest_is_read(tmp_path: Path) -> None:
    write_voc(
        tmp_path, {"a": [CAT], "b": [DOG]}, train=["a.jpg", "b", "gone", "../../etc/passwd", "bare", "a", "bad", ""]
    )
    write_picture(tmp_path / "JPEGImages" / "bare.jpg")
    write_picture(tmp_path / "JPEGImages" / "bad.jpg")
    (tmp_path / "Annotations" / "bad.xml").write_text("<annotation><object>")
    write_xml(tmp_path / "Annotations" / "gone.xml", CAT)
    dataset = open_dataset(tmp_path, "train")
    assert [sample.image_path.stem for sample in dataset.samples] == ["a", "b"]
    notes = "\n".join(dataset.notes)
    assert "images absent on disk, dropped: 1 (gone)" in notes
    assert "images without a label file, dropped: 2 (../../etc/passwd, bare)" in notes
    assert "images listed more than once, taken once: 1 (a)" in notes
    assert "label files that are not XML, dropped: 1 (bad.xml: no element found" in notes


def test_objects_without_name_or_numbers_are_dropped(tmp_path: Path) -> None:
    objects = [CAT, ("", (1, 2, 3, 4)), ("dog", (1, 2, 3, "x")), ("dog", (1, 2, 3, ""))]
    dataset = open_dataset(write_voc(tmp_path, {"a": objects}))
    assert dataset.labels == ("cat",)
    assert dataset.notes == [
        "objects without a class name or four numbers, dropped: 3 (nameless in a.jpg, dog in a.jpg, dog in a.jpg)"
    ]


def test_entity_bombs_are_refused(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [CAT], "b": [CAT]})
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotation><filename>&b;</filename></annotation>'
    (tmp_path / "Annotations" / "b.xml").write_text(bomb)
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 1
    assert "Entities" in dataset.notes[0]


@pytest.mark.parametrize("size", [(0, 0), ("", "wide"), (40, 30)])
def test_label_files_that_do_not_know_the_size_are_no_fault(size: tuple[object, object], tmp_path: Path) -> None:
    write_picture(tmp_path / "a.jpg")
    write_xml(tmp_path / "a.xml", CAT, size=size)
    assert open_dataset(tmp_path).notes == []


def test_binary_split_list_is_an_error(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [CAT]}, train=["a"])
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(DatasetError, match=r"train\.txt is not a text file"):
        open_dataset(tmp_path, "train")


@pytest.mark.parametrize("encoding", ["nonesuch", "utf-7", "idna", "base64", "utf-16"])
def test_a_label_file_in_an_encoding_that_is_none_costs_no_other(encoding: str, tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [CAT], "b": [CAT]})
    (tmp_path / "Annotations" / "b.xml").write_text(f'<?xml version="1.0" encoding="{encoding}"?><annotation/>')
    dataset = open_dataset(tmp_path)
    assert [sample.image_path.stem for sample in dataset.samples] == ["a"]
    (note,) = dataset.notes
    assert note.startswith("label files that are not XML, dropped: 1 (b.xml: ")


def test_label_files_that_are_no_files_on_a_disk_are_not_waited_for(tmp_path: Path) -> None:
    write_voc(tmp_path, {name: [CAT] for name in "abcde"})
    paths = {name: tmp_path / "Annotations" / f"{name}.xml" for name in "bcde"}
    for path in paths.values():
        path.unlink()
    os.mkfifo(paths["b"])
    paths["c"].symlink_to("/dev/zero")
    paths["d"].symlink_to("gone")
    paths["e"].mkdir()
    dataset = open_dataset(tmp_path)
    assert [sample.image_path.stem for sample in dataset.samples] == ["a"]
    assert dataset.notes == ["images without a label file, dropped: 4 (b, c, d, ...)"]


def test_a_label_file_of_no_end_is_not_read(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [CAT], "b": [CAT]})
    with (tmp_path / "Annotations" / "b.xml").open("wb") as file:
        file.truncate(1 << 40)
    dataset = open_dataset(tmp_path)
    (note,) = dataset.notes
    assert note.startswith("label files that cannot be read, dropped: 1 (")


@pytest.mark.parametrize("name", ["ImageSets/Main/train.txt", "labelmap.txt"])
def test_what_a_link_out_of_the_folder_leads_to_is_not_shown(name: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret words\n")
    folder = write_voc(tmp_path / "set", {"a": [CAT]}, val=["a"])
    (folder / name).symlink_to(secret)
    with pytest.raises(DatasetError, match="is a link out of") as caught:
        open_dataset(folder, "train" if "train" in name else "val")
    assert "secret words" not in str(caught.value)


@pytest.mark.parametrize("name", ["ImageSets/Main/train.txt", "labelmap.txt"])
def test_lists_that_are_no_files_on_a_disk_are_refused(name: str, tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [CAT]}, val=["a"])
    os.mkfifo(tmp_path / name)
    with pytest.raises(DatasetError, match=f"{Path(name).name} is no regular file"):
        open_dataset(tmp_path, "train" if "train" in name else "val")


def test_a_list_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [CAT]}, val=["a"])
    (tmp_path / "ImageSets" / "Main" / "train.txt").symlink_to("gone")
    with pytest.raises(DatasetError, match=r"train\.txt leads nowhere"):
        open_dataset(tmp_path, "train")


def _levels(number: int) -> str:
    return "<object>" * number + "</object>" * number


def test_label_files_of_many_levels_are_read(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [CAT]})
    (tmp_path / "Annotations" / "a.xml").write_text(f"<annotation>{_levels(100_000)}</annotation>")
    with pytest.raises(DatasetError, match="objects without a class name or four numbers, dropped: 100000"):
        open_dataset(tmp_path)


# The head of what supervision's `as_pascal_voc` writes.
SUPERVISION = "<folder>VOC</folder><filename>{name}.jpg</filename><source><database>roboflow.ai</database></source>"
ROBOFLOW = "<folder></folder><filename>{name}.jpg</filename><path>{name}.jpg</path>"
ROBOFLOW += "<source><database>roboflow.ai</database></source>"


def _with_head(folder: Path, head: str, **boxes: tuple[int, int, int, int]) -> Path:
    write_voc(folder, {name: [("cat", box)] for name, box in boxes.items()})
    for name in boxes:
        path = folder / "Annotations" / f"{name}.xml"
        path.write_text(path.read_text().replace("<filename></filename>", head.format(name=name)))
    return folder


def test_boxes_of_supervision_are_moved_back(tmp_path: Path) -> None:
    """Version 0.27 writes (0, 0, 40, 30) and (4, 5, 20, 25) in one way, later versions in another."""
    moved = "boxes of supervision, which numbers pixels from 1, moved to edges from 0: 2 (a.jpg, b.jpg)"
    for version, boxes in {"old": ((1, 1, 41, 31), (5, 6, 21, 26)), "new": ((1, 1, 40, 30), (5, 6, 20, 25))}.items():
        dataset = open_dataset(_with_head(tmp_path / version, SUPERVISION, a=boxes[0], b=boxes[1]))
        assert [each.boxes_xyxy.tolist() for each in dataset.samples] == [[[0, 0, 40, 30]], [[4, 5, 20, 25]]]
        assert dataset.notes == [moved]


def test_boxes_of_other_tools_stay_where_they_are(tmp_path: Path) -> None:
    dataset = open_dataset(_with_head(tmp_path, ROBOFLOW, a=(1, 1, 40, 30)))
    assert dataset.samples[0].boxes_xyxy.tolist() == [[1, 1, 40, 30]]
    assert dataset.notes == []


def test_supervision_itself_gets_its_boxes_back(tmp_path: Path) -> None:
    supervision = pytest.importorskip("supervision")
    pictures = [write_picture(tmp_path / "pictures" / f"{name}.jpg") for name in "ab"]
    boxes = [np.array(box, np.float32) for box in ([[0, 0, 40, 30]], [[4, 5, 20, 25], [1, 2, 3, 4]])]
    found = {
        str(path): supervision.Detections(xyxy=each, class_id=np.zeros(len(each), int))
        for path, each in zip(pictures, boxes, strict=True)
    }
    written = supervision.DetectionDataset(["cat"], list(map(str, pictures)), found)
    written.as_pascal_voc(str(tmp_path / "voc" / "images"), str(tmp_path / "voc" / "annotations"))
    for sample, each in zip(open_dataset(tmp_path / "voc").samples, boxes, strict=True):
        assert np.array_equal(sample.boxes_xyxy, each)


def test_a_background_of_no_colour_is_no_class(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [DOG]})
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:::\ncat:::\ndog:::\n")
    assert open_dataset(tmp_path).labels == ("cat", "dog")
    write_xml(tmp_path / "Annotations" / "a.xml", ("background", (1, 2, 3, 4)))
    assert open_dataset(tmp_path).labels == ("background", "cat", "dog")
