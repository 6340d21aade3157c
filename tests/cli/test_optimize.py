"""`--optimize` and `--no-optimize`: which commands optimise a detector, and when."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from dyzoo.model.detector import Detector
from dyzoo.model.optimization import OptimizedDetector
from tests.cli.cli_helpers import Cli, assert_one_error, write_picture
from tests.model.narrow_detectors import eager_detector


@pytest.fixture
def model(tmp_path: Path) -> Path:
    eager_detector().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def optimised(monkeypatch: pytest.MonkeyPatch) -> list[Detector]:
    """The detectors that were optimised."""
    seen: list[Detector] = []
    optimize = Detector.optimize

    def note(detector: Detector) -> Any:
        seen.append(detector)
        return optimize(detector)

    monkeypatch.setattr(Detector, "optimize", note)
    return seen


@pytest.mark.parametrize(
    ("pictures", "options", "expected"),
    [
        (2, [], 0),
        (3, [], 1),
        (2, ["--optimize"], 1),
        (3, ["--no-optimize"], 0),
        (3, ["--precision", "fp32"], 1),
        (3, ["--precision", "bf16"], 0),
        (2, ["--precision", "bf16", "--optimize"], 1),
    ],
)
def test_predict_optimises_where_it_pays_or_is_asked_for(
    cli: Cli,
    model: Path,
    optimised: list[Detector],
    monkeypatch: pytest.MonkeyPatch,
    pictures: int,
    options: list[str],
    expected: int,
) -> None:
    monkeypatch.setattr(sys.modules["dyzoo.cli.predict"], "OPTIMIZED_FROM", 3)
    for number in range(pictures):
        write_picture(Path(f"pictures/{number}.png"))
    outcome = cli("predict", "pictures", "--model", model, "--no-pictures", *options)
    assert outcome.code == 0, outcome.err
    assert len(optimised) == expected
    assert len(Path("predictions/detections.jsonl").read_text().splitlines()) == pictures


@pytest.mark.parametrize(("options", "expected"), [([], 1), (["--no-optimize"], 0), (["--precision", "bf16"], 0)])
def test_serve_optimises_on_a_cpu(
    cli: Cli,
    model: Path,
    optimised: list[Detector],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    expected: int,
) -> None:
    pytest.importorskip("fastapi")
    served: list[object] = []
    monkeypatch.setattr("dyzoo.serving.create_app", lambda detector, *_: served.append(detector))
    monkeypatch.setattr("dyzoo.serving.running.serve", lambda *_: None)
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)
    assert cli("serve", "--model", model, "--port", 0, *options).code == 0
    assert [isinstance(each, OptimizedDetector) for each in served] == [bool(expected)]
    assert len(optimised) == expected


def test_evaluate_measures_the_plain_detector_unless_asked(
    cli: Cli, model: Path, optimised: list[Detector], voc: Path
) -> None:
    for options in ((), ("--optimize", "--against", model, "--draws", 0)):
        outcome = cli("evaluate", "--data", voc, "--model", model, *options)
        assert outcome.code == 0, outcome.err
        assert len(optimised) == bool(options)
    assert "optimised" in Path("evaluation/report.html").read_text()


def test_what_cannot_be_optimised_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["dyzoo.cli.predict"]
    monkeypatch.setattr(module, "load_for_classes", lambda *_: (eager_detector().to("meta"), None))
    assert_one_error(cli("predict", "--optimize"), "expected torch.float32 on the CPU")
    monkeypatch.setattr(module, "load_for_classes", lambda *_: ("a runtime's", None))
    outcome = cli("predict", "--optimize")
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert "an exported file is run by another runtime" in outcome.err
    assert not Path("predictions").exists()
