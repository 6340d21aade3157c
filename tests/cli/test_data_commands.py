"""`dyzoo data check` and `dyzoo data convert`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dyzoo.data import open_dataset
from tests.cli.cli_helpers import Cli, write_picture


def test_check_prints_and_writes_a_report(cli: Cli, voc: Path) -> None:
    outcome = cli("data", "check", voc, "--out", "report", "--size", 64)
    assert (outcome.code, outcome.err) == (0, "")
    assert "Pascal VOC, train (2 images), val (2 images)" in outcome.out
    assert "images of val that are also in train, byte for byte: 2 (a.png, b.png)" in outcome.out
    assert json.loads(Path("report/check.json").read_text())["usable"] is True
    assert Path("report/contact_sheet.png").is_file()
    assert outcome.out.endswith("report in report\n")


def test_check_of_one_split(cli: Cli, voc: Path) -> None:
    outcome = cli("data", "check", voc, "--split", "val")
    assert outcome.code == 0
    assert "train" not in outcome.out.replace("training", "")


def test_check_of_nothing_usable_fails_and_still_reports(cli: Cli, voc: Path) -> None:
    for path in (voc / "JPEGImages").iterdir():
        path.write_text("no picture")
    outcome = cli("data", "check", voc, "--out", "report")
    assert outcome.code == 1
    assert outcome.err == f"error: {voc} holds no usable object\n"
    assert "images that cannot be opened, dropped: 2" in outcome.out
    assert Path("report/check.json").is_file()


@pytest.mark.parametrize("command", [("check",), ("convert", "out")])
def test_no_dataset_is_one_line(cli: Cli, tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "empty").mkdir()
    outcome = cli("data", command[0], "empty", *command[1:])
    assert outcome.code == 1
    assert outcome.err.startswith("error: empty is empty, expected Pascal VOC")
    assert outcome.err.count("\n") == 1
    assert not Path("out").exists()


@pytest.mark.parametrize("to", ["coco", "yolo", "voc"])
def test_convert(cli: Cli, voc: Path, to: str) -> None:
    outcome = cli("data", "convert", voc, "new", "--to", to)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == "train: 2 images, 4 boxes\nval: 2 images, 4 boxes\nwritten to new\n"
    assert open_dataset("new", "val").samples[0].boxes_xyxy.tolist() == [[11, 11, 40, 40], [51, 11, 80, 40]]


def test_convert_splits_what_has_no_validation_images(cli: Cli, voc: Path) -> None:
    for path in (voc / "ImageSets" / "Main").iterdir():
        path.unlink()
    write_picture(voc / "JPEGImages" / "b.png", (97, 64))
    hint = cli("evaluate", "--data", voc).err
    assert f"`dyzoo data convert {voc} OUT --split 0.2`" in hint
    outcome = cli("data", "convert", voc, "new", "--split", 0.2, "--link")
    assert outcome.code == 0
    assert outcome.out.startswith("train: 1 images, 2 boxes\nval: 1 images, 2 boxes\n")


def test_convert_says_what_is_left_behind(cli: Cli, voc: Path) -> None:
    path = voc / "Annotations" / "a.xml"
    path.write_text(path.read_text().replace("<bndbox>", "<difficult>1</difficult><bndbox>", 1))
    outcome = cli("data", "convert", voc, "new", "--to", "yolo")
    assert (
        outcome.err == "note: crowd regions and difficult objects, which YOLO cannot hold, left out: 2 (a.png, a.png)\n"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("convert", "voc", "taken"), 1, "taken is not empty, expected a new or empty folder"),
        (("convert", "voc", "voc/new"), 1, "lies in the folder that is converted"),
        (("convert", "voc", "new", "--split", "0.5"), 1, "has a split for validation already, val"),
        (("convert", "voc", "new", "--split", "2"), 1, "has a split for validation already, val"),
        (("convert", "voc", "new", "--to", "tfrecord"), 2, "tfrecord"),
        (("check", "voc", "--split", "test"), 1, "no split 'test', available: train, val"),
        (("check", "voc", "--out", "taken/file"), 1, "is a file, expected a folder to write to"),
        (("check",), 2, "DIR"),
    ],
)
def test_mistakes_are_one_line(cli: Cli, voc: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    Path("taken").mkdir()
    Path("taken/file").touch()
    outcome = cli("data", *arguments)
    assert outcome.code == code
    assert words in outcome.err
    assert outcome.err.count("\n") == 1
    assert not Path("new").exists()


@pytest.mark.parametrize("command", [(), ("check",), ("convert",)])
def test_help_shows_how(cli: Cli, command: tuple[str, ...]) -> None:
    outcome = cli("data", *command, "--help")
    assert outcome.code == 0
    assert "dyzoo data" in outcome.out
    assert max(map(len, outcome.out.splitlines())) <= 80
