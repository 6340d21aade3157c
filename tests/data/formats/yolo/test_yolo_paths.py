"""Where the paths of a YOLO folder may lead: to images of its own, and nowhere else."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from dyzoo.data import convert_dataset, list_splits, open_dataset
from dyzoo.data.formats import yolo
from dyzoo.data.records import Notes
from dyzoo.errors import DatasetError
from tests.data.data_builders import CAT_LINE, DOG_LINE, write_lines, write_picture, write_yolo

SECRET = "root:$6$secret:19000:0:99999"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one usable image in train, beside the private pictures and papers of somebody."""
    write_picture(tmp_path / "private" / "images" / "p.jpg")
    write_lines(tmp_path / "private" / "labels" / "p.txt", CAT_LINE)
    write_lines(tmp_path / "private" / "shadow", SECRET, SECRET)
    os.mkfifo(tmp_path / "private" / "pipe")
    folder = write_yolo(tmp_path / "set")
    os.mkfifo(folder / "pipe")
    return folder


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ("{private}/shadow", "leads out of"),
        ("../private/shadow", "leads out of"),
        ("images/../../private/shadow", "leads out of"),
        ("[images/train, {private}/images]", "leads out of"),
        ("{private}/pipe", "leads out of"),
        ("/", "leads out of"),
        ("..", "leads out of"),
        ("/proc/kmsg", "leads out of"),
        ("/dev/zero", "leads out of"),
        ("pipe", "no regular file"),
        ('"a\\0b"', "is absent"),
        ('"a\\e[2J"', "is absent"),
        ("x" * 5000, "is absent"),
    ],
)
def test_sources_outside_the_folder_are_refused_on_one_line(entries: str, words: str, folder: Path) -> None:
    private = folder.parent / "private"
    write_lines(folder / "data.yaml", f"train: {entries.format(private=private)}", "names: [cat, dog]")
    for attempt in (lambda: open_dataset(folder), lambda: convert_dataset(folder, folder.parent / "new")):
        with pytest.raises(DatasetError, match=words) as caught:
            attempt()
        assert str(caught.value).isprintable()
        assert "secret" not in str(caught.value)
    assert not (folder.parent / "new").exists()


@pytest.mark.parametrize(
    ("path", "source", "words"),
    [
        ("/", "images", "path is '/', / of the system, expected the folder of the dataset"),
        ("/proc/self/root", "etc", "of the system, expected"),
        ("/proc", ".", "of the system, expected"),
        ("/sys/kernel", ".", "of the system, expected"),
        ("..", ".", "which holds the dataset folder"),
        ("../private", "shadow", "holds no usable object: .*; lines of a list that name no image, passed over: 2"),
        ("../private", "pipe", "no regular file"),
    ],
)
def test_a_root_that_leads_out_has_its_limits(path: str, source: str, words: str, folder: Path) -> None:
    write_lines(folder / "data.yaml", f"path: {path}", f"train: {source}", "names: [cat, dog]")
    with pytest.raises(DatasetError, match=words) as caught:
        open_dataset(folder)
    assert "secret" not in str(caught.value)


def test_an_absolute_root_is_followed_and_named(folder: Path) -> None:
    private = folder.parent / "private"
    write_lines(folder / "data.yaml", f"path: {private}", "train: images", "names: [cat, dog]")
    dataset = open_dataset(folder)
    assert [sample.image_path for sample in dataset.samples] == [private / "images" / "p.jpg"]
    start = "sources outside the dataset folder, read because `path` leads there: 1 ("
    assert dataset.notes == [f"{start}{private / 'images'})"]


def test_lists_lead_to_no_image_outside_and_are_not_shown(folder: Path) -> None:
    private = folder.parent / "private"
    lines = (
        f"{private}/images/p.jpg",
        "../private/images/p.jpg",
        SECRET,
        f"{private}/shadow",
        "pipe",
        "images/train/a.jpg",
    )
    write_lines(folder / "train.txt", *lines)
    write_lines(folder / "data.yaml", "train: train.txt", "names: [cat, dog]")
    dataset = open_dataset(folder)
    assert [sample.image_path.name for sample in dataset.samples] == ["a.jpg"]
    assert [note.split(" (")[0] for note in dataset.notes] == [
        "images outside the dataset folder, refused: 2",
        "lines of a list that name no image, passed over: 3",
    ]
    assert "secret" not in str(dataset.notes)


@pytest.mark.parametrize("name", ["data.yaml", "obj.data", "obj.names", "classes.txt", "notes.json", "train.txt"])
@pytest.mark.parametrize("kind", ["link", "pipe", "device"])
def test_files_that_describe_the_folder_are_its_own(name: str, kind: str, folder: Path) -> None:
    (folder / "data.yaml").unlink()
    if name in ("obj.names", "train.txt"):
        write_lines(folder / "obj.data", "names = obj.names", "train = train.txt")
        write_lines(folder / "obj.names", "cat", "dog")
    path = folder / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(folder.parent / "private" / "shadow" if kind == "link" else "/dev/zero")
    with pytest.raises(DatasetError, match=r"is a link out of|no regular file") as caught:
        open_dataset(folder)
    assert "secret" not in str(caught.value)


def test_lines_of_labels_elsewhere_are_not_shown(folder: Path) -> None:
    labels = folder / "labels" / "train"
    for name, target in (("shadow", "shadow"), ("pipe", "pipe"), ("device", "/dev/zero")):
        write_picture(folder / "images" / "train" / f"{name}.jpg")
        (labels / f"{name}.txt").symlink_to(folder.parent / "private" / target)
    dataset = open_dataset(folder)
    assert [sample.image_path.name for sample in dataset.samples] == ["a.jpg", "shadow.jpg"]
    assert "label lines that are not all numbers, dropped: 2 (shadow.txt:1, shadow.txt:2)" in dataset.notes
    assert any(note.startswith("label files that cannot be read, their images dropped: 2 (") for note in dataset.notes)
    assert "secret" not in str(dataset.notes)


def test_linked_folders_of_images_are_read(folder: Path) -> None:
    private = folder.parent / "private"
    (folder / "images" / "train" / "more").symlink_to(private / "images")
    (folder / "labels" / "train" / "more").symlink_to(private / "labels")
    dataset = open_dataset(folder)
    assert [sample.labels.tolist() for sample in dataset.samples] == [[0], [0]]
    assert dataset.notes == [
        f"folders linked from outside the dataset folder, read: 1 (more -> {private / 'images'})",
    ]


@pytest.mark.parametrize(
    ("source", "named"), [("linked", ["folders"]), ("train.txt", ["folders", "files"]), ("images", ["files"])]
)
def test_every_way_out_through_a_link_is_named(source: str, named: list[str], folder: Path) -> None:
    private = folder.parent / "private"
    (folder / "linked").symlink_to(private / "images")
    (folder / "images" / "b.jpg").symlink_to(private / "images" / "p.jpg")
    write_lines(folder / "train.txt", "linked/p.jpg", "images/train/a.jpg", "images/b.jpg")
    write_lines(folder / "data.yaml", f"train: {source}", "names: [cat, dog]")
    record = Notes()
    yolo.find_splits(folder)["train"].read(record)
    links = {"folders": f"linked -> {private}/images", "files": f"b.jpg -> {private}/images/p.jpg"}
    assert [line for line in record.lines() if "linked" in line] == [
        f"{kind} linked from outside the dataset folder, read: 1 ({links[kind]})" for kind in named
    ]


@pytest.mark.parametrize(
    "entry",
    [
        "/home/somebody/set/images/train",
        "C:\\sets\\set\\images\\train",
        "images\\train",
        ".\\images\\train\\",
        "\\\\host\\share\\images\\train",
        "set/images/train",
    ],
)
def test_sources_written_on_another_machine_are_found(entry: str, folder: Path) -> None:
    (folder / "data.yaml").write_text(f"train: '{entry}'\nval: '{entry}'\nnames: [cat, dog]\n")
    assert list_splits(folder) == ("train", "val")
    dataset = open_dataset(folder, "val")
    assert [sample.labels.tolist() for sample in dataset.samples] == [[0]]
    assert all(note.startswith("images not where the label file says, found by name: ") for note in dataset.notes)


@pytest.mark.parametrize(
    "line",
    [
        "/home/somebody/set/images/train/{}.jpg",
        "C:\\sets\\images\\train\\{}.jpg",
        "images\\train\\{}.jpg",
        "..\\..\\set\\images\\train\\{}.jpg",
        "set/images/train/{}.jpg",
    ],
)
def test_lists_written_on_another_machine_are_read(line: str, folder: Path) -> None:
    write_picture(folder / "images" / "train" / "b.jpg")
    write_lines(folder / "labels" / "train" / "b.txt", DOG_LINE)
    write_lines(folder / "train.txt", line.format("b"), line.format("a"), line.format("gone"))
    write_lines(folder / "data.yaml", "train: train.txt", "names: [cat, dog]")
    dataset = open_dataset(folder)
    assert [sample.labels.tolist() for sample in dataset.samples] == [[1], [0]]
    assert sum("gone.jpg" in note for note in dataset.notes) == 1


def test_roboflows_absent_test_images_are_not_those_of_a_neighbour(folder: Path) -> None:
    write_picture(folder.parent / "test" / "images" / "x.jpg")
    write_lines(folder / "data.yaml", "train: ../images/train", "test: ../test/images", "names: [cat, dog]")
    assert list_splits(folder) == ("train",)


@pytest.mark.parametrize(("on_disk", "in_list"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_both_spellings_of_accents_are_found(on_disk: str, in_list: str, tmp_path: Path) -> None:
    image, label = (f"Größe/é{suffix}" for suffix in (".jpg", ".txt"))
    write_picture(tmp_path / "images" / unicodedata.normalize(on_disk, image))
    write_lines(tmp_path / "labels" / unicodedata.normalize(in_list, label), DOG_LINE)
    write_lines(tmp_path / "labels" / unicodedata.normalize(on_disk, "Größe") / "other.txt")
    (tmp_path / "labels" / unicodedata.normalize(in_list, label)).rename(
        tmp_path / "labels" / unicodedata.normalize(on_disk, "Größe") / unicodedata.normalize(in_list, "é.txt")
    )
    write_lines(tmp_path / "train.txt", unicodedata.normalize(in_list, f"images/{image}"))
    write_lines(tmp_path / "data.yaml", "train: train.txt", "names: [cat, dog]")
    assert [sample.labels.tolist() for sample in open_dataset(tmp_path).samples] == [[1]]
