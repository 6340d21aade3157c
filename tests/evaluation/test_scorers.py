"""Both scorers give the same numbers."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dyzoo.data import DetectionDataset
from dyzoo.errors import DyzooError
from dyzoo.evaluation import SCORERS, evaluate
from dyzoo.evaluation.metrics import Metrics, measure
from dyzoo.evaluation.scorers import load_scorer
from tests.evaluation.evaluation_cases import LABELS, Oracle, make_dataset, noisy, random_dataset, random_detections

Case = tuple[dict[str, Any], dict[str, Any] | None]  # of random_dataset and random_detections; None: nothing is found

CASES: dict[str, Case] = {
    "objects of all sizes": ({}, {}),
    "without crowd": ({"crowd_share": 0}, {}),
    "crowd alone": ({"crowd_share": 1}, {}),
    "ties in score": ({}, {"ties": True}),
    "nothing found": ({}, None),
    "nothing there": ({"objects": 0}, {}),
    "neither": ({"objects": 0}, None),
    "in one image of three": ({"images": 20}, {"every": 3}),
    "one image": ({"images": 1}, {}),
    "ids far apart and out of order": ({"category_ids": [90, 3, 44, 1_000_000, 7]}, {"ties": True}),
    "more than 100 in an image": ({"classes": 2, "objects": 30, "images": 5}, {"extra": 300}),
    "more than 100 of one score": ({"classes": 2, "objects": 30, "images": 5}, {"extra": 300, "ties": True}),
    "whole pixels, many an IoU just at a threshold": ({"whole": True, "objects": 12}, {"whole": True, "ties": True}),
    "many classes": ({"classes": 40, "objects": 25}, {"extra": 30}),
}


needs_both = pytest.mark.skipif(find_spec("faster_coco_eval") is None, reason="faster-coco-eval is not installed")


def both(dataset: DetectionDataset, detections: list[dict[str, Any]]) -> tuple[Metrics, Metrics]:
    first, second = (measure(dataset, detections, load_scorer(name)) for name in SCORERS)
    return first, second


def check_same(first: Metrics, second: Metrics) -> None:
    assert first.metrics == pytest.approx(second.metrics, abs=1e-6)
    assert list(first.per_class) == list(second.per_class)
    for label, values in first.per_class.items():
        assert values == pytest.approx(second.per_class[label], abs=1e-6), label
    np.testing.assert_allclose(first.precision, second.precision, rtol=0, atol=1e-6)


@needs_both
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", CASES)
def test_every_number_is_the_same(name: str, seed: int) -> None:
    of_dataset, of_detections = CASES[name]
    dataset = random_dataset(seed, **of_dataset)
    detections = [] if of_detections is None else random_detections(dataset, seed + 100, **of_detections)
    first, second = both(dataset, detections)
    check_same(first, second)


@needs_both
def test_the_cases_are_no_trivial_ones() -> None:
    dataset = random_dataset(0)
    metrics = measure(dataset, random_detections(dataset, 100), load_scorer("faster-coco-eval")).metrics
    assert all(value is not None and 0 < value < 0.98 for value in metrics.values()), metrics


@needs_both
def test_boxes_without_area_and_boxes_that_coincide_are_the_same() -> None:
    dataset = random_dataset(3, images=4)
    detections = random_detections(dataset, 5)
    for index, entry in enumerate(detections):
        if index % 3 == 0:
            entry["bbox"][2] = 0.0
        if index % 3 == 1:
            entry["bbox"] = list(detections[index - 1]["bbox"])
    check_same(*both(dataset, detections))


@needs_both
def test_evaluate_takes_either_and_says_which(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = make_dataset(tmp_path, crowd=frozenset({(3, 1)}), category_ids=[18, 3, 44])
    slow, fast = (evaluate(Oracle(noisy), dataset, scorer=name) for name in SCORERS)
    assert fast.metrics == pytest.approx(slow.metrics, abs=1e-6)
    assert fast.detections == slow.detections
    assert [e.to_dict()["settings"]["scorer"] for e in (slow, fast)] == ["pycocotools", "faster-coco-eval"]
    assert capsys.readouterr() == ("", "")


def test_without_the_package_one_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int] = []
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(DyzooError, match="pip install faster-coco-eval") as caught:
        evaluate(Oracle(lambda index: shown.append(index) or []), make_dataset(tmp_path), scorer="faster-coco-eval")
    assert "\n" not in str(caught.value)
    assert shown == [], "before the first image, not after the last"
    with pytest.raises(ValueError, match="scorer is 'coco', expected one of pycocotools, faster-coco-eval"):
        evaluate(Oracle(noisy, LABELS), make_dataset(tmp_path), scorer="coco")  # type: ignore[arg-type]
