"""Two models on one dataset: differences, intervals, and the images that changed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dyzoo.data import DetectionDataset
from dyzoo.errors import DatasetError
from dyzoo.evaluation import Comparison, Evaluation, compare, evaluate
from dyzoo.evaluation.changes import changes
from dyzoo.evaluation.metrics import measure
from dyzoo.evaluation.resampling import average_precisions, draw, match
from dyzoo.evaluation.scorers import load_scorer
from tests.evaluation.evaluation_cases import (
    LABELS,
    TRUTH,
    Oracle,
    make_dataset,
    noisy,
    random_dataset,
    random_detections,
    the_truth,
)

DATASETS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "objects of all sizes": ({}, {}),
    "crowds": ({"crowd_share": 0.5}, {}),
    "ids out of order": ({"category_ids": [90, 3, 44, 1000, 7]}, {}),
    "more than 100 in an image": ({"classes": 2, "objects": 30, "images": 5}, {"extra": 300}),
    "whole pixels": ({"whole": True, "objects": 12}, {"whole": True}),
    "nothing there": ({"objects": 0}, {}),
    "in one image of three": ({}, {"every": 3}),
}


def evaluation_of(dataset: DetectionDataset, detections: list[dict[str, Any]]) -> Evaluation:
    return Evaluation(*measure(dataset, detections, load_scorer("pycocotools")), detections, len(dataset))


def aps(evaluation: Evaluation, names: tuple[str, ...] = ("AP", "AP50", "AP75")) -> np.ndarray:
    return np.array([[values[name] for name in names] for values in evaluation.per_class.values()], dtype=float)


def resampled(dataset: DetectionDataset, detections: list[dict[str, Any]], times: list[int]) -> np.ndarray:
    (values,) = average_precisions(match(dataset, detections), np.array([times]))
    return np.stack([values.mean(axis=0), values[0], values[5]], axis=1)


def with_copies(
    dataset: DetectionDataset, detections: list[dict[str, Any]], times: list[int]
) -> tuple[DetectionDataset, list[dict[str, Any]]]:
    """Really that many of each image, with ids of their own."""
    samples, found = [], []
    for sample, count in zip(dataset.samples, times, strict=True):
        for _ in range(count):
            id_ = len(samples) + 1
            samples.append(replace(sample, image_id=id_))
            found += [{**d, "image_id": id_} for d in detections if d["image_id"] == sample.image_id]
    return DetectionDataset(samples, dataset.labels, dataset.category_ids), found


@pytest.mark.parametrize("name", DATASETS)
def test_with_every_image_once_ap_is_that_of_pycocotools(name: str) -> None:
    of_dataset, of_detections = DATASETS[name]
    dataset = random_dataset(1, **of_dataset)
    detections = random_detections(dataset, 2, ties=True, **of_detections)
    found = resampled(dataset, detections, [1] * len(dataset))
    np.testing.assert_allclose(found, aps(evaluation_of(dataset, detections)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", DATASETS)
def test_a_repeated_image_counts_as_copies_of_it(name: str, seed: int) -> None:
    of_dataset, of_detections = DATASETS[name]
    dataset = random_dataset(seed, **of_dataset)
    detections = random_detections(dataset, seed + 9, **of_detections)
    times = next(draw(len(dataset), 1, seed, 1))[0].tolist()
    assert max(times) > 1
    assert min(times) == 0
    expected = evaluation_of(*with_copies(dataset, detections, times))
    np.testing.assert_allclose(resampled(dataset, detections, times), aps(expected), rtol=0, atol=1e-12)


def test_draws_are_as_large_as_the_dataset_and_repeat_with_their_seed() -> None:
    first, second, other = (
        np.concatenate(list(draw(9, 50, seed, longest))) for seed, longest in ((3, 1), (3, 1_000_000), (4, 1))
    )
    assert first.shape == (50, 9)
    assert (first.sum(axis=1) == 9).all()
    assert (first == second).all(), "however many are drawn at once"
    assert (first != other).any()


def test_a_better_model_is_better_for_sure_and_the_same_one_is_not() -> None:
    dataset = random_dataset(0, images=60)
    poor = evaluation_of(dataset, random_detections(dataset, 1, extra=10))
    perfect = evaluation_of(
        dataset,
        [
            {
                "image_id": sample.image_id,
                "category_id": dataset.category_ids[label],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": 0.9,
            }
            for sample in dataset.samples
            for (x1, y1, x2, y2), label in zip(sample.boxes_xyxy.tolist(), sample.labels.tolist(), strict=True)
        ],
    )
    comparison = compare(perfect, poor, dataset, draws=200)
    for name in ("AP", "AP50", "AP75"):
        value = comparison.metrics[name]
        assert value.difference == pytest.approx(perfect.metrics[name] - poor.metrics[name])  # type: ignore[operator]
        assert value.interval is not None
        low, high = value.interval
        assert 0 < low < value.difference < high
    back = compare(poor, perfect, dataset, draws=200).metrics["AP"].interval
    assert back == pytest.approx([-end for end in reversed(comparison.metrics["AP"].interval or ())])

    same = compare(poor, poor, dataset, draws=50)
    assert same.metrics["AP"].interval == (0.0, 0.0)
    assert all(value.difference in (0.0, None) for values in same.per_class.values() for value in values.values())
    assert (same.num_changed, same.changed) == (0, [])


def test_intervals_are_those_of_datasets_really_drawn() -> None:
    dataset = random_dataset(5, images=15, classes=3)
    first, second = (random_detections(dataset, seed) for seed in (6, 7))
    comparison = compare(evaluation_of(dataset, first), evaluation_of(dataset, second), dataset, draws=40, seed=2)
    differences = []
    for times in np.concatenate(list(draw(15, 40, 2, 1))).tolist():
        one, other = (evaluation_of(*with_copies(dataset, d, times)).metrics["AP50"] for d in (first, second))
        differences.append(one - other)  # type: ignore[operator]
    assert comparison.metrics["AP50"].interval == pytest.approx(np.percentile(differences, (2.5, 97.5)), abs=1e-9)


def test_without_draws_there_are_no_intervals() -> None:
    dataset = random_dataset(0)
    comparison = compare(*(evaluation_of(dataset, random_detections(dataset, s)) for s in (1, 2)), dataset, draws=0)
    assert all(value.interval is None for value in comparison.metrics.values())
    assert comparison.to_dict()["metrics"]["AP"]["interval_95"] is None
    with pytest.raises(ValueError, match="draws is -1"):
        compare(*(evaluation_of(dataset, []) for _ in range(2)), dataset, draws=-1)


def test_change_is_the_score_that_appeared_vanished_or_moved() -> None:
    dataset = random_dataset(0, images=6, objects=0)
    ids = [sample.image_id for sample in dataset.samples]

    def at(image: int, x: float, score: float, category: int = 1) -> dict[str, Any]:
        return {"image_id": ids[image], "category_id": category, "bbox": [x, 0.0, 10.0, 10.0], "score": score}

    first = [at(0, 0, 0.9), at(1, 0, 0.9), at(2, 0, 0.9), at(3, 0, 0.6), at(5, 0, 0.5), at(5, 5, 0.5)]
    second = [at(0, 0, 0.9), at(1, 0, 0.7), at(2, 5, 0.9), at(3, 0, 0.6, category=2), at(4, 0, 0.3)]
    second += [at(5, 5, 0.5), at(5, 0, 0.5)]
    # the same; a score of .2 less; an IoU of 1/3; another class; one more; two in another order
    expected = [0.0, 0.2, 2 * 0.9 * (1 - 1 / 3), 1.2, 0.3, 0.0]
    assert changes(dataset, first, second).tolist() == pytest.approx(expected)
    assert changes(dataset, second, first).tolist() == pytest.approx(expected)


def test_boxes_without_area_are_no_change_where_they_are_the_same() -> None:
    dataset = random_dataset(0, images=1, objects=0)
    entry = {"image_id": dataset.samples[0].image_id, "category_id": 1, "bbox": [3.0, 4.0, 0.0, 0.0], "score": 0.5}
    assert changes(dataset, [entry], [dict(entry)]).tolist() == [0.0]


def test_what_rounding_moves_is_no_change() -> None:
    dataset = random_dataset(0, images=4)
    found = random_detections(dataset, 1)
    rounded = [{**entry, "score": entry["score"] + 1e-7} for entry in found]
    first, second = (evaluation_of(dataset, entries) for entries in (found, rounded))
    assert changes(dataset, found, rounded).max() > 0
    comparison = compare(first, second, dataset, draws=0)
    assert (comparison.num_changed, comparison.changed) == (0, [])


def worse_in_the_last(index: int) -> list[tuple[list[float], float, int]]:
    return the_truth(index)[:1] if index == 3 else the_truth(index)


@pytest.fixture
def two_models(tmp_path: Path) -> tuple[Comparison, Evaluation, Evaluation, DetectionDataset]:
    dataset = make_dataset(tmp_path)
    first, second = (evaluate(Oracle(answer), dataset) for answer in (the_truth, worse_in_the_last))
    return compare(first, second, dataset, draws=20, names=("good", "bad")), first, second, dataset


def test_the_images_that_changed_the_most_are_named_with_both_aps(
    two_models: tuple[Comparison, Evaluation, Evaluation, DetectionDataset],
) -> None:
    comparison, _, _, dataset = two_models
    (image,) = comparison.changed
    assert (image.path, image.image_id) == (dataset.samples[3].image_path, dataset.samples[3].image_id)
    assert image.change == pytest.approx(0.9)
    assert image.first_ap == pytest.approx(1.0)
    assert image.second_ap == pytest.approx(51 / 101)  # one of the two cats
    assert comparison.num_changed == 1


def test_reports_hold_both_models(
    two_models: tuple[Comparison, Evaluation, Evaluation, DetectionDataset], tmp_path: Path
) -> None:
    comparison, first, second, _ = two_models
    comparison.save(tmp_path / "new" / "comparison.json")
    written = json.loads((tmp_path / "new" / "comparison.json").read_text())
    assert written == comparison.to_dict()
    assert written["metrics"]["AP"]["first"] == first.metrics["AP"]
    assert written["per_class"]["cat"]["AP50"]["second"] == second.per_class["cat"]["AP50"]
    assert written["cost"]["first"]["images"] == 4
    table = comparison.table()
    cat = next(line.split() for line in table.splitlines() if line.startswith("cat "))
    difference = first.per_class["cat"]["AP"] - second.per_class["cat"]["AP"]  # type: ignore[operator]
    assert cat[1:4] == ["1.000", f"{second.per_class['cat']['AP']:.3f}", f"{difference:+.3f}"]
    assert "3.png" in table
    assert "images a second" in table
    facts = dict(comparison.facts())
    assert (facts["first"], facts["second"]) == ("good", "bad")
    assert facts["AP"].startswith("1.000 against ")


def test_classes_that_one_model_lacks_are_missed_and_left_out_of_the_shared_ones(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    everything = evaluate(Oracle(the_truth), dataset)
    only_dogs = evaluate(
        Oracle(
            lambda index: [(box, score, 1) for box, score, label in the_truth(index) if label == 1], ("wolf", "dog")
        ),
        dataset,
    )
    comparison = compare(everything, only_dogs, dataset, draws=20)
    assert comparison.shared_labels == ("dog",)
    assert comparison.shared["AP"][:2] == (1.0, 1.0)
    assert comparison.shared["AP"].interval == (0.0, 0.0)
    assert comparison.per_class["cat"]["AP"][:2] == (1.0, 0.0)
    assert comparison.metrics["AP"].second == pytest.approx(0.5)
    assert any("second: the model does not know cat" in note for note in comparison.notes)
    assert "AP, shared classes" in comparison.table()
    assert compare(everything, everything, dataset, draws=0).shared == {}


def test_names_from_strangers_cannot_steer_a_terminal(tmp_path: Path) -> None:
    labels = ("cat\x1b[31m", "dog\nAP 1.000", "bird")
    dataset = make_dataset(tmp_path, labels=labels)
    evaluation = evaluate(Oracle(noisy, labels), dataset)
    for text in (evaluation.table(), compare(evaluation, evaluation, dataset, draws=0).table()):
        assert "\x1b" not in text
        assert "dog\\nAP 1.000" in text
    assert labels[0] in evaluation.per_class


def test_an_evaluation_of_another_dataset_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    dataset, smaller = make_dataset(tmp_path / "a"), make_dataset(tmp_path / "b", TRUTH[:2])
    other_classes = make_dataset(tmp_path / "c", labels=("cat", "dog", "fish"))
    here = evaluate(Oracle(the_truth), dataset)
    for elsewhere in (smaller, other_classes):
        with pytest.raises(DatasetError, match="the evaluation of second is of another dataset"):
            compare(here, evaluate(Oracle(the_truth, LABELS), elsewhere), dataset)
