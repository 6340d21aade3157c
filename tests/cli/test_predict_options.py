"""Options of `dyzoo predict`: what is written, and what reaches the detector."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cli.cli_helpers import Cli, write_picture
from tests.model.narrow_detectors import eager_detector
from tests.prediction.stub_model import StubModel


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> StubModel:
    """A detector in the place of every other."""
    model = StubModel(notes=("the cap is reached", "too small"))
    monkeypatch.setattr(sys.modules["dyzoo.cli.predict"], "load_for_classes", lambda *_: (model, None))
    return model


def test_every_option_reaches_the_detector_under_its_name(cli: Cli, stub: StubModel, picture: Path) -> None:
    options = {
        "threshold": "cat=0.2", "iou": 0.4, "max-detections": 7, "size": 64, "tiles": 3, "precision": "bf16",
        "batch-size": 2, "workers": 0, "frame-stride": 5, "max-pixels": 10**9, "flip": "vertical",
    }  # fmt: skip
    outcome = cli("predict", picture, *(word for name, value in options.items() for word in (f"--{name}", value)))
    assert outcome.code == 0, outcome.err
    expected: dict[str, Any] = {name.replace("-", "_"): value for name, value in options.items()}
    del expected["flip"]
    expected |= {"threshold": {"cat": 0.2, "../dog": 0.3}, "flips": ("vertical",)}
    assert stub.asked == [{**expected, "keep_pictures": True, "on_error": "return", "stream": True}]


def test_only_what_was_given_reaches_the_detector(cli: Cli, stub: StubModel, picture: Path) -> None:
    assert cli("predict", picture, "--no-pictures").code == 0
    assert stub.asked == [{"on_error": "return", "stream": True}]
    assert not list(Path("predictions").glob("*.png"))


def test_formats_are_chosen_together_or_one_by_one(cli: Cli, stub: StubModel, picture: Path) -> None:
    outcome = cli("predict", picture, "--save", "coco, csv", "--save", "yolo", "--save-crops", "--json", "a.json")
    assert outcome.code == 0
    assert Path("a.json").is_file()
    assert sorted(path.name for path in Path("predictions").iterdir()) == [
        "classes.txt", "coco_images.json", "coco_results.json", "crops", "detections.csv", "detections.jsonl",
        "good.png", "labels",
    ]  # fmt: skip
    assert outcome.out.splitlines()[-4:] == [
        f"all detections: {path}"
        for path in ("predictions/coco_results.json", "predictions/detections.csv", "predictions/labels", "a.json")
    ]


def test_notes_are_said_once_for_each_source(cli: Cli, stub: StubModel, picture: Path) -> None:
    outcome = cli("predict", picture, "x.film", "--save-frames")
    assert outcome.err.splitlines() == [
        f"note: {source}: {line}" for source in (picture, "x.film") for line in ("the cap is reached", "too small")
    ]
    assert "x.film frame 2: 1 cat, 1 ../dog -> predictions/x/000002.png" in outcome.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--save", "xml"], "'xml' is no format, expected some of json, jsonl, coco, yolo, csv"),
        (["--save", ""], "'' is no format"),
        (["--tiles", "many"], "'many' is neither a number of tiles, auto nor off"),
        (["--tiles", "0"], "'0' is neither"),
        (["--iou", "2"], "iou is 2.0, expected 0 to 1"),
        (["--precision", "int8"], "--precision"),
        (["--threshold", "horse=0.5"], "the model knows no class 'horse'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_value_is_one_line(cli: Cli, stub: StubModel, picture: Path, options: list[str], words: str) -> None:
    outcome = cli("predict", picture, *options)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert words in outcome.err


def test_without_a_screen_show_is_one_line(
    cli: Cli, stub: StubModel, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    outcome = cli("predict", picture, "--show")
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (1, "", 1)
    assert outcome.err.startswith("error: there is no screen to show pictures on")


def test_a_window_shows_every_picture_and_waits(
    cli: Cli, stub: StubModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib import pyplot
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    pyplot.switch_backend("agg")
    monkeypatch.setattr(FigureCanvasAgg, "required_interactive_framework", "tk")
    seen: list[object] = []
    monkeypatch.setattr(Axes, "imshow", lambda self, image: seen.append(image.size))
    monkeypatch.setattr(pyplot, "pause", lambda seconds: None)
    monkeypatch.setattr(pyplot, "show", lambda block: seen.append("waited"))
    for name in ("a$b.png", "c.png"):
        write_picture(tmp_path / name)
    assert cli("predict", "a$b.png", "c.png", "--show", "--no-pictures").code == 0
    assert seen == [(480, 320), (480, 320), "waited"]
    assert pyplot.get_fignums() == []


def test_a_film_is_named_when_it_is_written(cli: Cli, stub: StubModel) -> None:
    outcome = cli("predict", "x.film")
    assert "x.film frame 2: 1 cat, 1 ../dog\n" in outcome.out
    assert "annotated film: predictions/x.mp4\n" in outcome.out
    assert sorted(path.name for path in Path("predictions").iterdir()) == [
        "detections.json", "detections.jsonl", "x.mp4",
    ]  # fmt: skip


def test_tracking_names_the_missing_package_before_it_writes(
    cli: Cli, stub: StubModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    outcome = cli("predict", "x.film", "--track")
    assert outcome.code == 1
    assert outcome.err == "error: tracking needs the package trackers: pip install 'dyzoo[track]'\n"
    assert not Path("predictions/detections.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tiles", "auto"], "has no training_scale"),
        (["--max-detections", 10**9], "max_detections is 1000000000, expected 1 to"),
    ],
    ids=["scale", "maximum"],
)
def test_settings_that_the_detector_cannot_follow_are_one_line(
    cli: Cli, tmp_path: Path, picture: Path, options: list[object], words: str
) -> None:
    model = eager_detector()
    model.config = replace(model.config, preprocess=replace(model.config.preprocess, training_scale=None))
    model.save_pretrained(tmp_path / "old")
    outcome = cli("predict", picture, "--model", tmp_path / "old", *options)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (1, "", 1)
    assert words in outcome.err
