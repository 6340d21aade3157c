from __future__ import annotations

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dyzoo.evaluation.report.matching import NOTHING, Matcher, Outcome
from dyzoo.evaluation.scorers import ground_truth, prepared, silence
from tests.evaluation.report.report_cases import dataset, random_case, results

LABELS = ("cat", "dog", "bird")
A, B, C = (0, 0, 20, 20), (50, 50, 90, 90), (100, 10, 140, 60)
BESIDE_A = (0, 0, 20, 30)  # IoU 2/3 with A
HALF_A = (0, 0, 10, 20)  # IoU 1/2 with A
LESS_THAN_HALF_A = (0, 0, 9, 20)
NOWHERE = (160, 100, 190, 140)


def test_every_cell_of_the_confusion_matrix() -> None:
    data = dataset([[(A, 0), (B, 1), (C, 2)], [(A, 0)], []], LABELS)
    found = results(
        [
            [
                (A, 0, 0.9),
                (BESIDE_A, 0, 0.8),
                (B, 2, 0.7),
                (C, 2, 0.1),
            ],  # right, doubled, confused, below the threshold
            [(LESS_THAN_HALF_A, 0, 0.9)],  # missed, and a false find
            [(NOWHERE, 1, 0.5)],
        ]
    )
    matches = Matcher(data, found).at(0.5)
    assert matches.confusion().tolist() == [
        [1, 0, 0, 1],
        [0, 0, 1, 0],
        [0, 0, 0, 1],
        [2, 1, 0, 0],
    ]
    assert matches.image_counts()["right"].tolist() == [1, 0, 0]
    assert matches.image_counts()["confused"].tolist() == [1, 0, 0]
    assert matches.image_counts()["missed"].tolist() == [1, 1, 0]
    assert matches.image_counts()["false"].tolist() == [1, 1, 1]
    scores = matches.class_scores()
    np.testing.assert_allclose(scores["precision"], [1 / 3, 0, 0])
    np.testing.assert_allclose(scores["recall"], [1 / 2, 0, 0])
    np.testing.assert_allclose(scores["f1"], [2 / 5, 0, 0])


def test_the_threshold_itself_is_reached_and_half_an_overlap_is_enough() -> None:
    data = dataset([[(A, 0)]], LABELS)
    assert Matcher(data, results([[(HALF_A, 0, 0.3)]])).at(0.3).confusion()[0, 0] == 1
    assert Matcher(data, results([[(HALF_A, 0, 0.3)]])).at(0.31).confusion()[0, 3] == 1
    assert Matcher(data, results([[(LESS_THAN_HALF_A, 0, 0.3)]])).at(0.3).confusion()[0, 3] == 1


def test_the_higher_score_takes_the_object_and_of_equal_scores_the_first() -> None:
    data = dataset([[(A, 0)]], LABELS)
    for first, second in ((0.6, 0.9), (0.9, 0.9)):
        matches = Matcher(data, results([[(BESIDE_A, 0, first), (A, 0, second)]])).at(0.0)
        taken = matches.finds.boxes_xywh[matches.match_of_object[0]].tolist()
        assert taken == ([0, 0, 20, 20] if second > first else [0, 0, 20, 30])


def test_an_object_found_under_its_own_name_is_not_confused_by_a_surer_second_answer() -> None:
    data = dataset([[(A, 0)]], LABELS)
    confusion = Matcher(data, results([[(A, 1, 0.9), (BESIDE_A, 0, 0.4)]])).at(0.0).confusion()
    assert confusion[0].tolist() == [1, 0, 0, 0]
    assert confusion[3].tolist() == [0, 1, 0, 0]


def test_of_two_wrong_classes_the_surer_one_is_the_confusion() -> None:
    data = dataset([[(A, 0)]], LABELS)
    confusion = Matcher(data, results([[(A, 1, 0.4), (BESIDE_A, 2, 0.9)]])).at(0.0).confusion()
    assert confusion[0].tolist() == [0, 0, 1, 0]
    assert confusion[3].tolist() == [0, 1, 0, 0]


def test_crowd_regions_are_neither_missed_nor_found() -> None:
    region = (0, 0, 100, 100)
    data = dataset([[(region, 0, True), (A, 0)], [(region, 1, True)]], LABELS)
    found = results(
        [
            [(A, 0, 0.9), (B, 0, 0.8), (C, 0, 0.7), (B, 1, 0.6)],  # the object, in the crowd, outside, another class
            [],
        ]
    )
    matches = Matcher(data, found).at(0.0)
    assert matches.outcome_of_find.tolist() == [Outcome.RIGHT, Outcome.IGNORED, Outcome.UNMATCHED, Outcome.UNMATCHED]
    assert matches.outcome_of_object.tolist() == [Outcome.IGNORED, Outcome.RIGHT, Outcome.IGNORED]
    assert matches.confusion().tolist() == [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]]


def test_pairs_of_an_image() -> None:
    data = dataset([[(A, 0)], [(B, 1), (A, 0)]], LABELS)
    matches = Matcher(data, results([[], [(NOWHERE, 0, 0.9), (A, 2, 0.8), (B, 1, 0.95)]])).at(0.0)
    objects, finds, pairs = matches.image(1)
    assert objects.tolist() == [1, 2]
    assert finds.tolist() == [0, 1, 2]
    assert pairs.tolist() == [[1, 0], [2, 2]]
    assert matches.match_of_object.tolist() == [NOTHING, 0, 2]
    np.testing.assert_allclose(matches.nearest_iou, [1, 0, 1])
    np.testing.assert_allclose(matches.nearest_own_iou, [1, 0, 0])


@pytest.mark.parametrize("seed", range(8))
def test_pairs_of_one_class_are_those_of_pycocotools(seed: int) -> None:
    data, found = random_case(seed)
    scorer = prepared(COCO, COCOeval, data, ground_truth(data), found)
    scorer.params.iouThrs = np.array([0.5])
    with silence():
        scorer.evaluate()
    entries = [each for each in scorer.evalImgs if each is not None and each["aRng"] == scorer.params.areaRng[0]]
    matches = Matcher(data, found).at(0.0)
    for label, category_id in enumerate(data.category_ids):
        ours = [each for each in entries if each["category_id"] == category_id]
        ignored = sum(int(each["dtIgnore"].sum()) for each in ours)
        right = sum(int(((each["dtMatches"] > 0) & ~each["dtIgnore"].astype(bool)).sum()) for each in ours)
        of_class = matches.outcome_of_find[matches.finds.labels == label]
        assert (of_class == Outcome.RIGHT).sum() == right
        assert (of_class == Outcome.IGNORED).sum() == ignored


@pytest.mark.parametrize("seed", range(8))
def test_a_threshold_is_the_same_as_leaving_lower_scores_out(seed: int) -> None:
    data, found = random_case(seed, decimals=2)
    matcher = Matcher(data, found)
    for threshold in (0.2, 0.5, 0.77):
        alone = Matcher(data, [each for each in found if each["score"] >= threshold]).at(0.0)
        together = matcher.at(threshold)
        assert together.confusion().tolist() == alone.confusion().tolist()
        assert together.match_of_object.tolist() == alone.match_of_object.tolist()
        assert together.outcome_of_find.tolist() == alone.outcome_of_find.tolist()


@pytest.mark.parametrize("seed", range(8))
def test_rows_and_columns_sum_up_to_objects_and_finds(seed: int) -> None:
    data, found = random_case(seed)
    matches = Matcher(data, found).at(0.4)
    confusion = matches.confusion()
    counted = matches.outcome_of_find != Outcome.IGNORED
    objects = np.bincount(matches.objects.labels[~matches.objects.crowd], minlength=3)
    assert confusion.sum(axis=1)[:-1].tolist() == objects.tolist()
    assert confusion.sum(axis=0)[:-1].tolist() == np.bincount(matches.finds.labels[counted], minlength=3).tolist()
    assert sum(values.sum() for values in matches.image_counts().values()) == confusion.sum()


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("decimals", [1, 3])
def test_the_best_threshold_is_the_best_of_all_scores(seed: int, decimals: int) -> None:
    data, found = random_case(seed, images=4, decimals=decimals)
    matcher = Matcher(data, found)
    mean_f1 = {
        score: float(np.nanmean(np.where(has_objects(matcher), matcher.at(score).class_scores()["f1"], np.nan)))
        for score in {each["score"] for each in found}
    }
    best = matcher.best_threshold()
    highest = max(mean_f1.values())
    exact = max(score for score, value in mean_f1.items() if value > highest - 1e-9)
    assert best is not None
    assert best.mean_f1 == pytest.approx(highest, abs=1e-12)
    assert best.score <= exact
    assert matcher.at(best.score).confusion().tolist() == matcher.at(exact).confusion().tolist()


@pytest.mark.parametrize("seed", range(6))
def test_the_best_threshold_of_a_class_is_the_best_of_its_scores(seed: int) -> None:
    data, found = random_case(seed, images=4, decimals=1)
    matcher = Matcher(data, found)
    for label, best in enumerate(matcher.best_thresholds()):
        f1 = {score: matcher.at(score).class_scores()["f1"][label] for score in {each["score"] for each in found}}
        highest = np.nanmax([0.0, *f1.values()])
        if best is None:
            assert not has_objects(matcher)[label] or highest == 0
        else:
            assert best.mean_f1 == pytest.approx(highest, abs=1e-12)
            assert matcher.at(best.score).class_scores()["f1"][label] == pytest.approx(highest, abs=1e-12)


def test_each_class_has_a_best_threshold_of_its_own() -> None:
    data = dataset([[(A, 0), (B, 1)]], LABELS)
    best = Matcher(data, results([[(A, 0, 0.8765), (C, 0, 0.7), (B, 1, 0.25), (C, 2, 0.9)]])).best_thresholds()
    assert best == [(0.8, 1.0), (0.2, 1.0), None]


def has_objects(matcher: Matcher) -> np.ndarray:
    objects = matcher.objects
    return np.bincount(objects.labels[~objects.crowd], minlength=matcher.num_classes) > 0


def test_the_best_threshold_by_hand() -> None:
    data = dataset([[(A, 0), (B, 0)]], LABELS)
    best = Matcher(data, results([[(A, 0, 0.8765), (B, 0, 0.4321), (C, 0, 0.4279), (C, 0, 0.1)]])).best_threshold()
    assert best == (0.43, 1.0)  # 0.42 would take the third in


def test_no_threshold_without_objects_or_finds() -> None:
    nothing, something = dataset([[]], LABELS), dataset([[(A, 0)]], LABELS)
    assert Matcher(nothing, results([[(A, 0, 0.9)]])).best_threshold() is None
    assert Matcher(something, []).best_threshold() is None
    assert Matcher(something, results([[(B, 0, 0.9)]])).best_threshold() is None
    assert Matcher(nothing, []).at(0.5).confusion().tolist() == np.zeros((4, 4)).tolist()
    assert Matcher(nothing, results([[(A, 0, 0.9)]])).at(0.5).confusion()[3, 0] == 1


def test_strangers_are_left_out() -> None:
    data = dataset([[(A, 0)]], LABELS)
    found = [{**each, **other} for each in results([[(A, 0, 0.9)]]) for other in ({"image_id": 7}, {"category_id": 7})]
    assert Matcher(data, found).at(0.0).confusion().tolist()[0] == [0, 0, 0, 1]
