"""YOLO folders, clean and dirty."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from dyzoo.data import list_splits, open_dataset
from dyzoo.errors import DatasetError
from tests.data.data_builders import CAT_LINE, DOG_LINE, SIZE, cvat_coco, write_lines, write_picture, write_yolo

# A few lines that stand for two to the power of 41 words.
BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 41))


def test_boxes_labels_and_numbers(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path, "1 0.5 0.5 0.25 0.2", "", CAT_LINE)
    write_picture(folder / "images" / "train" / "deep" / "c.png")
    write_lines(folder / "labels" / "train" / "deep" / "c.txt")
    dataset = open_dataset(folder, "train")
    assert (dataset.labels, dataset.category_ids, dataset.notes) == (("cat", "dog"), (0, 1), [])
    full, empty = dataset.samples
    assert full.boxes_xyxy[0].tolist() == [15, 12, 25, 18]
    assert full.labels.tolist() == [1, 0]
    assert (empty.image_path.name, len(empty.labels)) == ("c.png", 0)
    assert (full.image_id, empty.image_id) == (1, 2)


def test_boxes_belong_to_the_upright_photo(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path, "0 0.5 0.25 1.0 0.5")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", SIZE).save(folder / "images" / "train" / "a.jpg", exif=exif)
    assert open_dataset(folder).samples[0].boxes_xyxy.tolist() == [[0, 0, 30, 20]]


def test_outlines_become_the_box_around_them(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path, "0 0.25 0.5 0.5 0.1 0.75 0.5", "1 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5")
    sample = open_dataset(folder).samples[0]
    assert sample.boxes_xyxy.tolist() == [[10, 3, 30, 15], [4, 3, 20, 15]]


def test_keypoints_are_no_outline(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path, "0 0.5 0.5 0.5 0.5 " + "0.1 0.1 " * 2)
    with (folder / "data.yaml").open("a") as file:
        file.write("kpt_shape: [2, 2]\n")
    assert open_dataset(folder).samples[0].boxes_xyxy.tolist() == [[10, 7.5, 30, 22.5]]


@pytest.mark.parametrize(
    ("line", "note"),
    [
        ("0 0.5 x 0.1 0.1", "label lines that are not all numbers, dropped: 1 (a.txt:2: 0 0.5 x 0.1 0.1)"),
        ("cat 0.5 0.5 0.1 0.1", "label lines that are not all numbers, dropped: 1 (a.txt:2: cat 0.5 0.5 0.1 0.1)"),
        ("2 0.5 0.5 0.1 0.1", "label lines of a class number that is not among the 2 names, dropped: 1 (a.txt:2: 2 0."),
        ("-1 0.5 0.5 0.1 0.1", "label lines of a class number that is not among the 2 names, dropped: 1 (a.txt:2: -1"),
        ("0.5 0.5 0.5 0.1 0.1", "label lines of a class number that is not among the 2 names, dropped: 1 (a.txt:2: 0."),
        ("nan 0.5 0.5 0.1 0.1", "label lines of a class number that is not among the 2 names, dropped: 1 (a.txt:2: n"),
        ("inf 0.5 0.5 0.1 0.1", "label lines of a class number that is not among the 2 names, dropped: 1 (a.txt:2: i"),
        ("0 0.5 0.5 0.1", "label lines without four numbers behind the class, or an outline of points, dropped: 1 ("),
        ("0 0.5 0.5 0.1 0.1 0.9", "label lines without four numbers behind the class, or an outline of points, dropp"),
        ("0", "label lines without four numbers behind the class, or an outline of points, dropped: 1 (a.txt:2: 0)"),
        ("0 20 15 10 10", "label lines with numbers outside 0..1, dropped: 1 (a.txt:2: 0 20 15 10 10)"),
        ("0 0.5 0.5 nan 0.1", "label lines with numbers outside 0..1, dropped: 1 (a.txt:2: 0 0.5 0.5 nan 0.1)"),
        ("0 0.5 0.5 0.1 -0.1", "label lines with numbers outside 0..1, dropped: 1 (a.txt:2: 0 0.5 0.5 0.1 -0.1)"),
        ("0 0.5 0.5 0 0.1", "boxes without area, dropped: 1 (a.jpg at 20 13.5 20 16.5)"),
        ("0 0.9 0.5 0.4 0.2", "boxes reaching over the edge of their image, clipped: 1 (a.jpg at 28 12 44 18)"),
        (CAT_LINE, "objects given twice, taken once: 1 (a.jpg at 1 2 11 22)"),
    ],
)
def test_a_bad_line_is_noted_and_the_others_are_read(line: str, note: str, tmp_path: Path) -> None:
    dataset = open_dataset(write_yolo(tmp_path, CAT_LINE, line))
    assert len(dataset.notes) == 1
    assert dataset.notes[0].startswith(note)
    assert len(dataset.samples[0].labels) == (2 if "clipped" in note else 1)


def test_absent_and_unreadable_files_are_noted(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path)
    for name in ("bare", "binary", "broken"):
        write_picture(folder / "images" / "train" / f"{name}.jpg")
    (folder / "labels" / "train" / "binary.txt").write_bytes(b"\xff\xfe\x00\x81")
    (folder / "images" / "train" / "broken.jpg").write_text("no picture")
    write_lines(folder / "labels" / "train" / "broken.txt", CAT_LINE)
    write_lines(folder / "labels" / "train" / "orphan.txt", CAT_LINE)
    dataset = open_dataset(folder)
    assert [sample.image_path.name for sample in dataset.samples] == ["a.jpg", "bare.jpg"]
    notes = "\n".join(dataset.notes)
    assert "label files without an image, passed over: 1 (orphan.txt)" in notes
    assert "images without a label file, taken as background: 1 (bare.jpg)" in notes
    assert "label files that are not text, their images dropped: 1 (binary.txt)" in notes
    assert "images that cannot be opened, dropped: 1 (" in notes


def test_lists_of_images(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path / "set")
    write_picture(folder / "images" / "b.jpg")
    write_lines(folder / "labels" / "b.txt", DOG_LINE)
    absolute = str(folder / "images" / "b.jpg")
    lines = ("./images/train/a.jpg", absolute, "images/train/gone.jpg", "../images/b.jpg", "\x00")
    write_lines(folder / "lists" / "train.txt", *lines)
    write_lines(folder / "data.yaml", "train: [lists/train.txt]", "val: lists/train.txt", "names: {1: dog, 0: cat}")
    dataset = open_dataset(folder, "train")
    assert [sample.image_path for sample in dataset.samples] == [folder / "images/train/a.jpg", folder / "images/b.jpg"]
    assert [sample.labels.tolist() for sample in dataset.samples] == [[0], [1]]
    assert dataset.notes == [
        "images absent on disk, dropped: 1 (images/train/gone.jpg)",
        "lines of a list that name no image, passed over: 1 (train.txt:5)",
        "images listed more than once, taken once: 1 (b.jpg)",
    ]


def test_what_lies_in_the_folder_comes_before_its_neighbours(tmp_path: Path) -> None:
    """Two exports of Roboflow side by side, one of them unpacked into the common folder."""
    for folder in (tmp_path, tmp_path / "set"):
        write_picture(folder / "train" / "images" / "a.jpg")
        write_lines(folder / "train" / "labels" / "a.txt", CAT_LINE)
    write_lines(tmp_path / "set" / "data.yaml", "train: ../train/images", "val: ../train/images", "names: [cat]")
    assert open_dataset(tmp_path / "set", "train").samples[0].image_path == tmp_path / "set/train/images/a.jpg"


def test_paths_that_lead_to_a_neighbour(tmp_path: Path) -> None:
    write_picture(tmp_path / "pictures" / "images" / "a.jpg")
    write_lines(tmp_path / "pictures" / "labels" / "a.txt", CAT_LINE)
    yaml = write_lines(tmp_path / "set" / "pets.yaml", "path: ../pictures", "train: images", "val:", "names: [cat]")
    assert list_splits(yaml.parent) == ("train",)
    dataset = open_dataset(yaml.parent)
    assert [sample.labels.tolist() for sample in dataset.samples] == [[0]]
    (note,) = dataset.notes
    assert note.startswith("sources outside the dataset folder, read because `path` leads there: 1 (/")


def test_a_root_of_another_machine_is_passed_over(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path)
    write_lines(folder / "data.yaml", "path: /home/somebody/sets", "train: images/train", "names: [cat, dog]")
    assert len(open_dataset(folder)) == 1


def test_folders_called_images_far_above_are_no_matter(tmp_path: Path) -> None:
    folder = tmp_path / "images" / "set"
    write_picture(folder / "obj_train_data" / "a.jpg")
    write_lines(folder / "obj_train_data" / "a.txt", CAT_LINE)
    write_lines(folder / "classes.txt", "cat")
    write_lines(folder / "data.yaml", "train: obj_train_data", "names: [cat]")
    assert open_dataset(folder).samples[0].labels.tolist() == [0]


def test_names_are_text_whatever_yaml_makes_of_them(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path, "1 0.5 0.5 0.2 0.2", names="[yes, no, 007, 1_0, null, 1.50, Größe]")
    assert open_dataset(folder).labels == ("yes", "no", "007", "1_0", "null", "1.50", "Größe")


def test_two_numbers_of_one_name_are_one_class(tmp_path: Path) -> None:
    dataset = open_dataset(write_yolo(tmp_path, CAT_LINE, "2 0.5 0.5 0.2 0.2", names="[cat, dog, cat]"))
    assert dataset.labels == ("cat", "dog")
    assert dataset.samples[0].labels.tolist() == [0, 0]
    assert dataset.notes == ["class names with two numbers, taken as one class: 1 (cat)"]


@pytest.mark.parametrize("with_subfolders", [True, False])
def test_classes_txt_with_splits_as_folders(with_subfolders: bool, tmp_path: Path) -> None:
    for split in ("train", "val"):
        where = ("images", split) if with_subfolders else (split, "images")
        write_picture(tmp_path.joinpath(*where, "a.jpg"))
        write_lines(tmp_path.joinpath(*(part.replace("images", "labels") for part in where), "a.txt"), CAT_LINE)
    write_lines(tmp_path / "classes.txt", "cat", "dog", "")
    assert list_splits(tmp_path) == ("train", "val")
    assert open_dataset(tmp_path, "val").labels == ("cat", "dog")


def test_images_with_their_text_beside_them(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.jpg")
    write_lines(tmp_path / "a.txt", DOG_LINE)
    write_lines(tmp_path / "classes.txt", "cat", "dog")
    assert open_dataset(tmp_path).samples[0].labels.tolist() == [1]


def test_annotations_beside_labels_are_coco(tmp_path: Path) -> None:
    folder = cvat_coco(tmp_path)
    write_lines(folder / "labels" / "default" / "a.txt", DOG_LINE)
    write_lines(folder / "config.yaml", "colour: red")
    assert list_splits(folder) == ("default",)
    assert open_dataset(folder).samples[0].labels.tolist() == [0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("names: [a", "is not YAML"),
        ("[" * 5000, "is not YAML"),
        ("", "names no images"),
        ("- train", "names no images"),
        ("train: images/train", "names is None, expected a list"),
        ("train: images/train\nnames: cat", "names is 'cat', expected a list"),
        ("train: images/train\nnames: []", "names is {}, expected a list"),
        ("train: images/train\nnames: {a: cat}", "names has 'a': 'cat', expected a number and a name"),
        ("train: images/train\nnames: [[cat]]", "names has '0': ['cat'], expected a number and a name"),
        ("train: images/train\nnames: [cat]\nnc: 3", "has 1 names but says nc: '3'"),
        ("train: {a: b}\nnames: [cat]", "train is {'a': 'b'}, expected a path"),
        ("train: nowhere\nnames: [cat]", "nowhere is absent, expected a folder or a list of images"),
        ("train: images/train\nnames: [cat]\nkpt_shape: 3", "kpt_shape is '3', expected"),
        ("train: images/train\nnames: [cat]\nkpt_shape: []", "kpt_shape is [], expected"),
        (f"train: images/train\nnames: [cat]\nkpt_shape: [{'9' * 5000}, 3]", "kpt_shape is ['999"),
        (f"train: images/train\nnames:\n  ? {'9' * 5000}\n  : cat", "expected a number and a name"),
        ('train: images/train\nnames: ["\\ud800"]', "names has '0': '\\ud800', expected a number and a name"),
        ('train: images/train\nnames: ["\\UFFFFFFFF"]', "is not YAML"),
        ("secret: [words\nof: somebody", "is not YAML: expected ',' or ']', but got ':', line 2"),
        ("train: images/train\nnames: [cat]\n" + BOMB + "nc: *a40", "says nc: [[[["),
        ("train: images/train\n" + BOMB + "names: *a40", "names has '0': [[[["),
        ("&a a: &b [*c]\nnames: [x]", "is not YAML: found undefined alias 'c', line 1"),
        ("#" * (2 << 20) + "\ntrain: x", "bytes, expected at most 2097152"),
        ("!!python/object/apply:os.system ['true']", "names no images"),
    ],
)
def test_a_useless_yaml_is_an_error_of_one_line(content: str, words: str, tmp_path: Path) -> None:
    folder = write_yolo(tmp_path)
    (folder / "data.yaml").write_text(content)
    with pytest.raises(DatasetError) as caught:
        open_dataset(folder)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("classes.txt", b"cat\n\ndog\n", "has an empty line 2"),
        ("classes.txt", b"\n", "is empty"),
        ("classes.txt", b"\xff\xfe\x00\x81", "is not a text file"),
        ("notes.json", b"{}", "has no categories"),
        ("notes.json", b'{"categories": [{"id": "x"}]}', "has no categories"),
        ("readme.md", b"", "has no class names: put them into"),
        ("obj.data", b"classes = 2", "names no list of images"),
        ("obj.data", b"train = images/train", "obj.names is absent"),
        ("notes.json", b'{"categories": [{"id": 1e999, "name": "a"}]}', "has no categories"),
        ("notes.json", b'{"categories": [{"id": 0, "name": "\\ud800"}]}', "has no categories with id and name: 0 is"),
    ],
)
def test_useless_class_names_are_an_error_of_one_line(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    write_yolo(tmp_path)
    (tmp_path / "data.yaml").unlink()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        open_dataset(tmp_path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_export_without_its_images_says_so(tmp_path: Path) -> None:
    write_lines(tmp_path / "labels" / "a.txt", CAT_LINE)
    write_lines(tmp_path / "classes.txt", "cat")
    with pytest.raises(
        DatasetError, match=r"images is absent, expected a folder or a list of images: see .*classes\.txt"
    ):
        open_dataset(tmp_path)
