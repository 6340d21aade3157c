"""Odd and mistaken data sets, through the command line: a run that is right, or one line that says what is wrong."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from dyzoo.cli import run
from dyzoo.errors import DatasetError
from dyzoo.hub.run_card import BEST_NAME
from dyzoo.training import train
from tests.process_groups import run_together
from tests.training.training_runs import known_models, tiny_run

Box = tuple[float, float, float, float, int]  # x, y, width, height, class
TWO: tuple[Box, ...] = ((10, 10, 30, 30, 0), (50, 20, 30, 30, 1))
NAMES = ("red", "blue")


def write_coco(
    folder: Path, names: Sequence[str] = NAMES, size: tuple[int, int] = (96, 64), **splits: Sequence[Sequence[Box]]
) -> Path:
    """A COCO folder; each split is given by the boxes of its pictures."""
    for split, pictures in splits.items():
        images, annotations = [], []
        (folder / split).mkdir(parents=True)
        (folder / "annotations").mkdir(exist_ok=True)
        for number, boxes in enumerate(pictures):
            pixels = np.random.default_rng(number).integers(100, 130, (size[1], size[0], 3), dtype=np.uint8)
            for x, y, w, h, label in boxes[:9]:
                pixels[int(y) : int(y + h), int(x) : int(x + w)] = ((220, 20, 20), (20, 20, 220))[label % 2]
            Image.fromarray(pixels).save(folder / split / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "width": size[0], "height": size[1]})
            annotations += [{"image_id": number, "category_id": label, "bbox": box} for *box, label in boxes]
        for number, entry in enumerate(annotations):
            entry["id"] = number
        categories = [{"id": number, "name": name} for number, name in enumerate(names)]
        tables = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(tables))
    return folder


class Outcome(NamedTuple):
    code: int
    out: str
    error: str
    folder: Path

    @property
    def rows(self) -> list[dict[str, float]]:
        """Rows of metrics.csv."""
        with (self.folder / "metrics.csv").open() as file:
            return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]

    def assert_right(self) -> None:
        """Trained to the end, with numbers throughout and a detector that is kept."""
        assert (self.code, self.error) == (0, "")
        assert all(math.isfinite(value) for row in self.rows for value in row.values())
        assert all(0 < row["loss"] < 100 for row in self.rows)
        assert (self.folder / BEST_NAME / "config.json").is_file()

    def assert_refused(self, *words: str) -> None:
        """One line, and nothing written that was not there."""
        assert self.code == 1
        assert self.error.startswith("error: ")
        assert self.error.count("\n") == 1
        assert all(word in self.error for word in words), self.error


Train = Callable[..., Outcome]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Train:
    """`cli(data, *options, out="run")`: one epoch of "tiny"."""
    monkeypatch.setattr("dyzoo.training.setup.model_config", known_models)
    monkeypatch.delenv("DYZOO_DEBUG", raising=False)

    def call(data: Path, *options: object, out: str = "run") -> Outcome:
        folder = tmp_path / out
        usual = "--epochs 1 --batch-size 2 --size 64 --no-pretrained-backbone --workers 0 --precision fp32 --device cpu"
        model = () if "--weights" in options else ("--model", "tiny")
        capfd.readouterr()
        code = run([*map(str, ("train", "--data", data, "--out", folder, *model, *usual.split(), *options))])
        return Outcome(code, *capfd.readouterr(), folder)

    return call


# --- starting from, and going on with, something else -----------------------------------------------------------------


def test_weights_of_another_number_of_classes(cli: Train, tmp_path: Path) -> None:
    first = cli(write_coco(tmp_path / "two", train=[TWO] * 2, val=[TWO]))
    first.assert_right()
    data = write_coco(tmp_path / "three", ("blue", "red", "green"), train=[TWO] * 2, val=[TWO])
    again = cli(data, "--weights", first.folder, out="again")
    again.assert_right()
    assert "classes it knows blue, red; new green" in again.out


def test_resuming_after_a_class_was_renamed(cli: Train, tmp_path: Path) -> None:
    first = cli(write_coco(tmp_path / "before", train=[TWO] * 2, val=[TWO]))
    before = {path: path.read_bytes() for path in first.folder.rglob("*") if path.is_file()}
    data = write_coco(tmp_path / "after", ("red", "green"), train=[TWO] * 2, val=[TWO])
    cli(data, "--resume", "--epochs", 2).assert_refused("was trained with other training labels")
    assert {path: path.read_bytes() for path in first.folder.rglob("*") if path.is_file()} == before


# --- validation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("val", "words"),
    [
        ({}, ("has no split 'val'", "dyzoo data convert")),
        ({"val": []}, ("split 'val'", "holds no usable object")),
        ({"val": [(), ()]}, ("split 'val'", "holds no usable object")),
    ],
    ids=["absent", "no images", "no boxes"],
)
def test_a_validation_split_that_cannot_tell_which_epoch_is_best(
    cli: Train, tmp_path: Path, val: dict[str, Any], words: tuple[str, ...]
) -> None:
    """Refused before anything is trained: AP would be undefined, and the best epoch any."""
    refused = cli(write_coco(tmp_path / "data", train=[TWO] * 2, **val))
    refused.assert_refused(*words)
    assert not refused.folder.exists()


def test_validation_pictures_that_are_absent(cli: Train, tmp_path: Path) -> None:
    data = write_coco(tmp_path / "data", train=[TWO] * 2, val=[TWO] * 2)
    shutil.rmtree(data / "val")
    cli(data).assert_refused("images absent on disk, dropped: 2 (0.png, 1.png)")


def test_validation_with_other_classes(cli: Train, tmp_path: Path) -> None:
    data = write_coco(tmp_path / "data", train=[TWO] * 2)
    write_coco(data, ("cyan", "pink"), val=[TWO])
    cli(data).assert_refused("objects of a class that is not among the labels, dropped: 2 (cyan in 0.png")


# --- training ---------------------------------------------------------------------------------------------------------


def test_a_training_split_of_background_alone(cli: Train, tmp_path: Path) -> None:
    """A forgotten folder of labels looks like this."""
    data = write_coco(tmp_path / "data", train=[()] * 3, val=[TWO])
    cli(data).assert_refused("split 'train'", "holds no usable object")
    with pytest.raises(DatasetError, match="holds no usable object"):
        train(tiny_run(data, tmp_path / "run"))


def test_batches_of_background_alone(cli: Train, tmp_path: Path) -> None:
    result = cli(write_coco(tmp_path / "data", train=[*[()] * 4, TWO], val=[TWO, ()]), "--batch-size", 1)
    result.assert_right()


@pytest.mark.parametrize("options", [(), ("--mosaic", 1, "--copy-paste", 1)], ids=["plain", "mixed"])
@pytest.mark.parametrize("batch_size", [1, 2, 50])
def test_a_single_image(cli: Train, tmp_path: Path, batch_size: int, options: tuple[object, ...]) -> None:
    result = cli(write_coco(tmp_path / "data", train=[TWO], val=[TWO]), "--batch-size", batch_size, *options)
    result.assert_right()


def test_a_class_without_any_box(cli: Train, tmp_path: Path) -> None:
    result = cli(write_coco(tmp_path / "data", ("red", "blue", "never"), train=[TWO] * 2, val=[TWO]))
    result.assert_right()
    (line,) = (line for line in result.out.splitlines() if line.startswith("never"))
    assert line.split() == ["never", "0", "-", "-", "-"]
    metrics = json.loads((result.folder / "evaluation" / "metrics.json").read_text())
    assert metrics["per_class"]["never"]["AP"] is None
    assert metrics["metrics"]["AP"] == pytest.approx(
        np.mean([metrics["per_class"][name]["AP"] for name in NAMES]), abs=1e-6
    )


def test_identical_images(cli: Train, tmp_path: Path) -> None:
    data = write_coco(tmp_path / "data", train=[TWO] * 3, val=[TWO])
    for number in (1, 2):
        shutil.copy(data / "train" / "0.png", data / "train" / f"{number}.png")
    cli(data).assert_right()


def test_boxes_of_a_pixel_are_named(cli: Train, tmp_path: Path) -> None:
    specks = ((3, 4, 1, 1, 0), (95, 63, 1, 1, 1), (0, 0, 1, 1, 0))
    result = cli(write_coco(tmp_path / "data", train=[specks, TWO], val=[specks]))
    result.assert_right()
    assert "train: 3 boxes are less than 2 pixels wide or high at 64 x" in result.out
    large = cli(write_coco(tmp_path / "large", train=[TWO], val=[TWO]), out="other")
    assert "too small to be learnt" not in large.out


def test_ten_thousand_boxes_in_an_image(cli: Train, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    crowd = [
        (*place, *side, int(label))
        for place, side, label in zip(
            draw.uniform(0, 170, (10_000, 2)).tolist(),
            draw.uniform(3, 30, (10_000, 2)).tolist(),
            draw.integers(0, 2, 10_000),
            strict=True,
        )
    ]
    data = write_coco(tmp_path / "data", size=(200, 200), train=[crowd, TWO], val=[crowd])
    result = cli(data, "--mosaic", 0.5, "--copy-paste", 0.5)
    result.assert_right()
    assert "train: 2 images, 10002 boxes" in result.out


@pytest.mark.slow
def test_more_processes_than_images(tmp_path: Path) -> None:
    data = write_coco(tmp_path / "data", train=[TWO], val=[TWO])
    weights = run_together(tmp_path, 2, _train_in_a_process, data, tmp_path / "run")
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    Outcome(0, "", "", tmp_path / "run").assert_right()


def _train_in_a_process(data: Path, out: Path) -> dict[str, torch.Tensor]:
    import dyzoo.training.setup
    from dyzoo.training.loop import Trainer

    dyzoo.training.setup.model_config = known_models  # type: ignore[assignment]
    trainer = Trainer(tiny_run(data, out, batch_size=1))
    trainer.run()
    return trainer.model.state_dict()
