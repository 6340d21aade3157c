"""`dyzoo evaluate`: cost, flips, scorers, and two detectors side by side."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import dyzoo
from dyzoo.data import open_dataset
from dyzoo.evaluation import Cost
from dyzoo.model.detector import Detector
from tests.cli.cli_helpers import Cli, assert_one_error


@pytest.fixture(scope="session")
def other_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny detector with its two classes exchanged."""
    detector = Detector.from_pretrained(tiny_model)
    weight, bias = detector.head.cls.weight.data, detector.head.cls.bias.data
    detector.head.cls.weight.data, detector.head.cls.bias.data = weight.flip(0), bias.flip(0)
    folder = tmp_path_factory.mktemp("models") / "other"
    detector.save_pretrained(folder)
    return folder


def test_the_cost_stands_under_the_table_and_in_the_json(cli: Cli, tiny_model: Path, voc: Path) -> None:
    outcome = cli("evaluate", "--data", voc, "--model", tiny_model, "--device", "cpu")
    assert outcome.code == 0, outcome.err
    cost = json.loads(Path("evaluation/metrics.json").read_text())["cost"]
    assert (cost["images"], cost["batch_size"]) == (2, 1)
    assert dict(Cost(**cost).facts())["time an image, median"] in outcome.out
    assert outcome.out.index("class ") < outcome.out.index("device ") < outcome.out.index("evaluation/report.html")


def test_flips_reach_the_detector(cli: Cli, tiny_model: Path, voc: Path, picture: Path) -> None:
    flips = ("--flip", "horizontal", "--flip", "vertical")
    assert cli("evaluate", "--data", voc, "--model", tiny_model, *flips).code == 0
    report = json.loads(Path("evaluation/metrics.json").read_text())
    assert report["settings"]["flips"] == ["horizontal", "vertical"]
    detector = Detector.from_pretrained(tiny_model)
    expected = dyzoo.evaluate(detector, open_dataset(voc, "val"), flips=["horizontal", "vertical"])
    assert json.loads(Path("evaluation/detections.json").read_text()) == expected.detections
    assert expected.detections != dyzoo.evaluate(detector, open_dataset(voc, "val")).detections

    assert cli("predict", picture, "-m", tiny_model, "-t", 0, "--flip", "vertical").code == 0
    written = json.loads(Path("predictions/detections.json").read_text())
    (found,) = detector.predict(picture, threshold=0, flips=["vertical"])
    assert written["flips"] == ["vertical"]
    assert written["images"][0]["detections"] == found.to_dict()["detections"]


def test_the_same_detector_twice_shows_what_less_precision_costs(cli: Cli, tiny_model: Path, voc: Path) -> None:
    against = ("--precision", "bf16", "--against", tiny_model, "--draws", 0)
    assert cli("evaluate", "--data", voc, "--model", tiny_model, *against).code == 0
    both = [json.loads(Path(f"evaluation/{name}metrics.json").read_text()) for name in ("", "against/")]
    assert [report["settings"].get("precision") for report in both] == ["bf16", None]
    found = [Path(f"evaluation/{name}detections.json").read_text() for name in ("", "against/")]
    assert found[0] != found[1]


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_an_unknown_flip_is_one_line(cli: Cli, voc: Path, command: str) -> None:
    outcome = cli(command, *(("--data", voc) if command == "evaluate" else ()), "--flip", "diagonal")
    assert (outcome.code, outcome.out) == (2, "")
    assert "'diagonal' is not one of 'horizontal', 'vertical'" in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.skipif(find_spec("faster_coco_eval") is None, reason="faster-coco-eval is not installed")
def test_the_faster_scorer_has_the_same_metrics(cli: Cli, tiny_model: Path, voc: Path) -> None:
    reports = []
    for scorer in ("pycocotools", "faster-coco-eval"):
        assert cli("evaluate", "--data", voc, "--model", tiny_model, "--scorer", scorer, "--out", scorer).code == 0
        reports.append(json.loads(Path(scorer, "metrics.json").read_text()))
    assert reports[0]["metrics"] == pytest.approx(reports[1]["metrics"], abs=1e-6)


def test_a_scorer_that_is_not_installed_is_one_line(
    cli: Cli, tiny_model: Path, voc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    outcome = cli("evaluate", "--data", voc, "--model", tiny_model, "--scorer", "faster-coco-eval")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith("error: the scorer faster-coco-eval is not installed: pip install faster-coco-eval")
    assert outcome.err.count("\n") == 1
    assert not Path("evaluation").exists()


def test_against_writes_both_reports_and_the_comparison(
    cli: Cli, tiny_model: Path, other_model: Path, voc: Path
) -> None:
    options = ("--data", voc, "--model", tiny_model, "--against", other_model, "--draws", 30, "--out", "report")
    outcome = cli("evaluate", *options, "--json", "metrics.json")
    assert (outcome.code, outcome.err) == (0, "")
    comparison = json.loads(Path("report/comparison.json").read_text())
    assert (comparison["first"], comparison["second"]) == (tiny_model.name, other_model.name)
    assert comparison["bootstrap"] == {"draws": 30, "seed": 0}
    for folder, which in (("report", "first"), ("report/against", "second")):
        metrics = json.loads(Path(folder, "metrics.json").read_text())["metrics"]
        assert metrics == {name: values[which] for name, values in comparison["metrics"].items()}
        assert Path(folder, "detections.json").is_file()
        assert set(json.loads(Path(folder, "thresholds.json").read_text())["per_class"]) == {"red", "blue"}
    assert json.loads(Path("metrics.json").read_text()) == json.loads(Path("report/metrics.json").read_text())
    assert comparison["images_changed"] == 2
    assert "95 % interval" in outcome.out
    assert outcome.out.splitlines()[-1] == "2 images; what was found and missed: report/report.html"
    for folder in ("report", "report/against"):
        assert "<title>" in Path(folder, "report.html").read_text()
    assert "Comparison" in Path("report/report.html").read_text()


@pytest.mark.parametrize("names", [("absent", None), ("tiny", "absent")], ids=["alone", "second of two"])
def test_a_mistyped_model_costs_no_evaluation_and_leaves_no_folder(
    cli: Cli, tiny_model: Path, voc: Path, names: tuple[str, str | None]
) -> None:
    model, against = names
    others = [] if against is None else ["--against", against]
    outcome = cli("evaluate", "--data", voc, "--model", tiny_model if model == "tiny" else model, *others)
    assert_one_error(outcome, "absent")
    assert not Path("evaluation").exists()
