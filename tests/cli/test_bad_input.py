"""Mistakes of users, end to end: one clear line, a non-zero exit code, and the good images still come out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dyzoo.config import DetectorConfig
from tests.cli.cli_helpers import Cli, Outcome, assert_one_error, write_picture


def text(path: Path) -> None:
    path.write_text("this is no picture\nat all\n")


def truncated(path: Path) -> None:
    write_picture(path, (400, 300))
    path.write_bytes(path.read_bytes()[:4000])


def nothing(path: Path) -> None:
    """The file is missing."""


def empty_folder(path: Path) -> None:
    path.mkdir()


def empty_file(path: Path) -> None:
    path.touch()


BAD_IMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing.jpg": (nothing, "no such file"),
    "text.jpg": (text, "not an image"),
    "truncated.jpg": (truncated, "damaged"),
    "zero.png": (empty_file, "is empty"),
    "folder": (empty_folder, "holds no image"),
    "no*match.png": (nothing, "no such file"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_is_one_line(cli: Cli, tiny_model: Path, tmp_path: Path, name: str) -> None:
    make, message = BAD_IMAGES[name]
    make(tmp_path / name)
    outcome = cli("predict", name, "--model", tiny_model)
    assert_one_error(outcome, name, message)
    assert outcome.out == ""


def test_the_good_images_of_a_batch_still_come_out(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    for name, (make, _) in BAD_IMAGES.items():
        make(tmp_path / name)
    good = [write_picture(tmp_path / name) for name in ("a.png", "m.png", "z.png")]
    outcome = cli("predict", good[0], *BAD_IMAGES, *good[1:], "--model", tiny_model)
    assert outcome.code == 1
    assert len(outcome.err.splitlines()) == len(BAD_IMAGES)
    assert all(line.startswith("error: ") for line in outcome.err.splitlines())
    for name, (_, message) in BAD_IMAGES.items():
        assert any(name in line and message in line for line in outcome.err.splitlines())
    assert sorted(path.name for path in Path("predictions").glob("*.png")) == ["a.png", "m.png", "z.png"]
    report = json.loads(Path("predictions/detections.json").read_text())
    assert [image["path"] for image in report["images"]] == [str(path) for path in good]


def one_pixel(path: Path) -> None:
    Image.new("RGB", (1, 1)).save(path)


def very_wide(path: Path) -> None:
    Image.new("RGB", (20_000, 30), (90, 120, 90)).save(path)


def cmyk(path: Path) -> None:
    Image.new("CMYK", (60, 40), (10, 80, 80, 0)).save(path)


def sixteen_bit(path: Path) -> None:
    Image.fromarray(np.linspace(0, 65535, 60 * 40).reshape(40, 60).astype(np.uint16)).save(path)


def rotated(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: 60 x 40 pixels show a picture of 40 x 60
    Image.new("RGB", (60, 40), (200, 0, 0)).save(path, exif=exif)


def transparent(path: Path) -> None:
    Image.new("RGBA", (60, 40), (200, 0, 0, 100)).save(path)


@pytest.mark.parametrize(
    ("name", "make", "size"),
    [
        ("one.png", one_pixel, (1, 1)),
        ("wide.png", very_wide, (20_000, 30)),
        ("cmyk.jpg", cmyk, (60, 40)),
        ("sixteen.png", sixteen_bit, (60, 40)),
        ("rotated.jpg", rotated, (40, 60)),
        ("transparent.png", transparent, (60, 40)),
    ],
)
def test_odd_images_are_images(
    cli: Cli,
    tiny_model: Path,
    tmp_path: Path,
    name: str,
    make: Callable[[Path], None],
    size: tuple[int, int],
) -> None:
    make(tmp_path / name)
    outcome = cli("predict", name, "--model", tiny_model, "--threshold", 0)
    assert outcome.code == 0
    assert all(" is seen at " in line for line in outcome.err.splitlines())
    assert bool(outcome.err) == (name == "wide.png")
    (image,) = json.loads(Path("predictions/detections.json").read_text())["images"]
    assert (image["width_px"], image["height_px"]) == size
    boxes = np.array([found["box_xyxy"] for found in image["detections"]]).reshape(-1, 4)
    assert boxes.min() >= 0
    assert (boxes.max(axis=0) <= [*size, *size]).all()
    with Image.open(Path("predictions") / Path(name).with_suffix(".png")) as annotated:
        assert annotated.width * size[1] == annotated.height * size[0]


def write_coco(folder: Path, **changes: Any) -> Path:
    """Two pictures with a red and a blue square each, and what `changes` makes of the label file's tables."""
    tables = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 30, 30]},
            {"id": 2, "image_id": 2, "category_id": 2, "bbox": [50, 10, 30, 30]},
        ],
    }
    for name, rows in changes.items():
        tables[name] += rows
    for name in ("a.png", "b.png"):
        write_picture(folder / "val" / name)
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(tables))
    return folder


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"images": [{"id": 3, "file_name": "gone.png"}]}, "gone.png"),
        ({"annotations": [{"id": 9, "image_id": 1, "category_id": 77, "bbox": [1, 1, 5, 5]}]}, "77"),
        ({"annotations": [{"id": 9, "image_id": 1, "category_id": 1, "bbox": [500, 500, 5, 5]}]}, "outside"),
        ({"annotations": [{"id": 1, "image_id": 2, "category_id": 1, "bbox": [1, 1, 5, 5]}]}, "1"),
        ({"annotations": [{"id": 9, "image_id": 55, "category_id": 1, "bbox": [1, 1, 5, 5]}]}, "55"),
    ],
    ids=["absent image", "unknown class id", "box outside", "duplicate id", "unknown image id"],
)
def test_a_dirty_entry_is_noted_and_the_others_are_evaluated(
    cli: Cli, tiny_model: Path, tmp_path: Path, changes: dict[str, Any], what: str
) -> None:
    outcome = cli("evaluate", "--data", write_coco(tmp_path / "coco", **changes), "--model", tiny_model)
    assert outcome.code == 0, outcome.err
    assert outcome.err.startswith("note: ")
    assert outcome.err.count("\n") == 1
    assert what in outcome.err
    assert "all" in outcome.out


def break_json(folder: Path) -> Path:
    path = write_coco(folder) / "annotations" / "instances_val.json"
    path.write_text(path.read_text()[:100])
    return folder


def remove_images(folder: Path) -> Path:
    shutil.rmtree(write_coco(folder) / "val")
    return folder


def make_empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def make_absent(folder: Path) -> Path:
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_absent, "absent, expected a dataset folder"),
        (make_empty, "is empty, expected"),
        (break_json, "instances_val.json"),
        (remove_images, "a.png"),
    ],
)
def test_a_dataset_that_cannot_be_used_is_one_line(
    cli: Cli, tiny_model: Path, tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    folder = make(tmp_path / "data")
    assert_one_error(cli("evaluate", "--data", folder, "--model", tiny_model), message)
    outcome = cli("train", "--data", folder, "--no-pretrained-backbone", "--train-split", "val")
    assert_one_error(outcome, message)
    assert not Path("runs").exists()


def test_a_split_that_is_not_there_names_those_that_are(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "coco")
    assert_one_error(cli("evaluate", "--data", folder, "--model", tiny_model, "--split", "test"), "'test'", "val")


def test_a_dataset_of_other_classes_is_one_line(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "coco")
    labels = folder / "annotations" / "instances_val.json"
    labels.write_text(labels.read_text().replace('"red"', '"car"').replace('"blue"', '"bus"'))
    outcome = cli("evaluate", "--data", folder, "--model", tiny_model)
    assert_one_error(outcome, "the model knows red, blue", "no class in common")


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "good.png", "--model", "dyhead_ats_resnet10"),
        ("evaluate", "--data", "voc", "--model", "dyhead_ats_resnet10"),
        ("train", "--data", "voc", "--model", "dyhead_ats_resnet10"),
    ],
)
def test_an_unknown_model_brings_the_nearest_names(
    cli: Cli, picture: Path, voc: Path, arguments: tuple[str, ...]
) -> None:
    outcome = cli(*arguments)
    assert_one_error(outcome, "'dyhead_ats_resnet10'", "did you mean", "dyhead_atss_resnet10t")


def of_another_architecture(folder: Path) -> None:
    """The weights stay, the configuration describes a wider detector."""
    path = folder / "config.json"
    settings = json.loads(path.read_text())
    settings["dyhead"]["channels"] = 64
    path.write_text(json.dumps(settings))


def damaged_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def text_for_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_text("no weights")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def half_a_config(folder: Path) -> None:
    (folder / "config.json").write_text(DetectorConfig().to_json()[:50])


def unknown_setting(folder: Path) -> None:
    (folder / "config.json").write_text('{"colour": "red"}')


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (of_another_architecture, "these weights are not of dyhead_atss_resnet10t"),
        (damaged_weights, "model.safetensors is damaged"),
        (text_for_weights, "model.safetensors is damaged"),
        (no_weights, "has no model.safetensors"),
        (half_a_config, "config.json is not JSON"),
        (unknown_setting, "unknown setting 'colour'"),
    ],
)
def test_a_spoilt_checkpoint_is_one_line(
    cli: Cli, tiny_model: Path, picture: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    spoil(folder)
    assert_one_error(cli("predict", picture, "--model", folder), message)


@pytest.mark.parametrize("option", ["--out", "--json"])
@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_output_that_cannot_be_written_is_one_line(
    cli: Cli, tiny_model: Path, picture: Path, voc: Path, command: str, option: str
) -> None:
    Path("taken").write_text("a file where a folder is wanted")
    arguments = [picture] if command == "predict" else ["--data", voc]
    outcome = cli(command, *arguments, "--model", tiny_model, option, "taken/x")
    assert_one_error(outcome, "taken")
    assert Path("taken").read_text() == "a file where a folder is wanted"


def test_a_file_in_place_of_the_output_folder_is_one_line(cli: Cli, tiny_model: Path, picture: Path) -> None:
    outcome = cli("predict", picture, "--model", tiny_model, "--out", picture)
    assert_one_error(outcome, f"{picture}: is a file, expected a folder to write to")


def test_resuming_nothing_is_one_line(cli: Cli, voc: Path) -> None:
    outcome = cli("train", "--data", voc, "--out", "run", "--resume", "--no-pretrained-backbone", "--workers", 0)
    assert_one_error(outcome, "run", "resume")


def test_a_process_leaves_no_traceback(tmp_path: Path, tiny_model: Path) -> None:
    write_picture(tmp_path / "good.png")
    text(tmp_path / "bad.jpg")
    process = subprocess.run(
        [sys.executable, "-m", "dyzoo", "predict", "good.png", "bad.jpg", "--model", str(tiny_model)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert_one_error(Outcome(process.returncode, process.stdout, process.stderr), "bad.jpg")
    assert (tmp_path / "predictions" / "good.png").is_file()
