"""`dyzoo explain`."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from dyzoo.cli import run
from dyzoo.config import ATSSConfig, DyHeadConfig
from dyzoo.errors import SettingError
from dyzoo.runtime.exported_detector import OUTPUTS
from dyzoo.runtime.onnx_detector import OnnxDetector
from tests.cli.cli_helpers import Cli, Outcome, assert_one_error, write_picture
from tests.explain.conftest import planted
from tests.model.narrow_detectors import narrow_detector


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """`dyzoo explain` on good.png with a small detector, called in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DYZOO_DEBUG", raising=False)
    planted().save_pretrained(tmp_path / "model")
    write_picture(tmp_path / "good.png")

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        code = run(["explain", *map(str, arguments)])
        return Outcome(code, *capfd.readouterr())

    return call


def test_it_writes_the_page_and_says_where(cli: Cli) -> None:
    choice = ("--object", 1, "--block", 0, "--level", 2, "--place", "40,24")
    outcome = cli("good.png", "--model", "model", *choice, "--out", "seen")
    assert outcome.code == 0
    first, page, others = outcome.out.splitlines()
    assert first.startswith("good.png: object 1 of 5, ")
    assert page == "page: seen/explain.html"
    assert "explain.json, maps.png, sampling.png, channels.png, object.png" in others
    numbers = json.loads(Path("seen/explain.json").read_text())
    assert (numbers["detection"], numbers["block"], numbers["level"], numbers["place_px"]) == (1, 0, 2, [40, 24])


@pytest.mark.parametrize("off", ["scale", "spatial", "task"])
def test_an_attention_that_is_switched_off_is_seen_to_do_nothing(cli: Cli, off: str) -> None:
    dyhead = DyHeadConfig(channels=32, num_blocks=1, **{off: False})  # type: ignore[arg-type]
    head = ATSSConfig(prior_probability=0.9, max_detections=5)
    narrow_detector((64, 128), labels=("red", "blue"), head=head, dyhead=dyhead).save_pretrained("without")
    assert cli("good.png", "--model", "without", "--level", 1, "--out", "seen").code == 0
    numbers = json.loads(Path("seen/explain.json").read_text())
    assert numbers["switched_off"] == [off]
    level = numbers["blocks"][0]["levels"][1]
    points = level["sampling"]["points"]
    found = {
        "scale": {weight for sources in level["scale_weights"].values() for weight in sources.values()} == {1.0},
        "spatial": all(point["place_px"] == point["grid_px"] and point["mask"] == 1.0 for point in points),
        "task": {*level["relu"]["slopes"][0]} == {1.0} and not any(level["relu"]["slopes"][1]),
    }
    assert len(points) == 27
    assert [name for name, is_neutral in found.items() if is_neutral] == [off]


def test_nothing_found_is_said_and_still_shown(cli: Cli) -> None:
    outcome = cli("good.png", "--model", "model", "--threshold", 1)
    assert outcome.code == 0
    assert "nothing found that could be explained" in outcome.err
    assert not Path("explained/object.png").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("absent.png",), "no such file"),
        (("good.png", "--object", 5), "detection is 5, expected 0 to 4"),
        (("good.png", "--block", 7), "block is 7, expected 0 to 1"),
        (("good.png", "--place", "400,3"), "expected a place in the picture of 96 x 64 pixels"),
        (("good.png", "--size", 4000), "choose a smaller size"),
        ((".",), "a folder"),
    ],
)
def test_mistakes_are_one_line(cli: Cli, arguments: tuple[object, ...], words: str) -> None:
    assert_one_error(cli(*arguments, "--model", "model"), words)


@pytest.mark.parametrize("place", ["3", "a,b", "1,2,3", "-1,2", "1e9,2", "9" * 5000 + ",1", "nan,1"])
def test_a_place_is_two_numbers(cli: Cli, place: str) -> None:
    outcome = cli("good.png", "--model", "model", "--place", place)
    assert outcome.code == 2
    assert "expected X,Y in pixels" in outcome.err
    assert len(outcome.err) < 300


def test_an_onnx_file_is_refused_on_one_line() -> None:
    runner = SimpleNamespace(inputs=["images"], outputs=OUTPUTS)
    model = OnnxDetector(runner, planted().config, "uint8", "mine.onnx", 1)  # it is refused before it would run
    with pytest.raises(SettingError, match=r"mine\.onnx: an ONNX file cannot be explained"):
        model.explain("good.png")
