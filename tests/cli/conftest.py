"""A tiny detector on disk, a tiny dataset, and the command line called in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from dyzoo.cli import run
from tests.cli.cli_helpers import Cli, Outcome, write_picture
from tests.model.narrow_detectors import eager_detector


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a detector of "red" and "blue" that has random weights and finds something everywhere."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    eager_detector(max_detections=1000).save_pretrained(folder)
    return folder


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """`cli("predict", path)` in `tmp_path`; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DYZOO_DEBUG", raising=False)

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        return Outcome(code, *capfd.readouterr())

    return call


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A good image."""
    return write_picture(tmp_path / "good.png")


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A dataset of two pictures with a red and a blue square, the same for train and val."""
    folder = tmp_path / "voc"
    for name in ("Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for name in ("a", "b"):
        write_picture(folder / "JPEGImages" / f"{name}.png")
        objects = "".join(
            f"<object><name>{label}</name><bndbox><xmin>{x}</xmin><ymin>11</ymin><xmax>{x + 29}</xmax><ymax>40</ymax>"
            "</bndbox></object>"
            for label, x in (("red", 11), ("blue", 51))
        )
        (folder / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><filename>{name}.png</filename>{objects}</annotation>"
        )
    for split in ("train", "val"):
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("a\nb\n")
    return folder
