import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import dyzoo
from dyzoo.data import DetectionDataset, Sample, convert_dataset, open_dataset
from dyzoo.data.records import areas_of
from dyzoo.errors import DatasetError
from dyzoo.evaluation import RECALLS, SCORERS, ScorerName, evaluate
from dyzoo.evaluation.metrics import measure
from dyzoo.evaluation.plots import save_precision_recall, save_training_curves
from dyzoo.evaluation.scorers import load_scorer
from tests.evaluation.evaluation_cases import LABELS, TRUTH, Oracle, make_dataset, noisy, the_truth


def test_the_truth_itself_scores_one(tmp_path: Path) -> None:
    evaluation = evaluate(Oracle(the_truth), make_dataset(tmp_path))
    perfect = dict.fromkeys(["AP", "AP50", "AP75", "APs", "APm", "APl", "AR10", "AR100"], 1.0)
    # Of three cats one is the second in its picture, of two dogs none.
    assert evaluation.metrics == pytest.approx({**perfect, "AR1": (2 / 3 + 1) / 2})


def test_finding_nothing_scores_zero(tmp_path: Path) -> None:
    evaluation = evaluate(Oracle(lambda _: []), make_dataset(tmp_path))
    assert set(evaluation.metrics.values()) == {0.0}
    assert evaluation.detections == []


def test_a_box_counts_at_the_iou_thresholds_that_it_passes(tmp_path: Path) -> None:
    shift = 100 * (1 - 0.62) / (1 + 0.62)  # of a 100 px square, for an IoU of 0.62
    dataset = make_dataset(tmp_path, [[([20, 20, 120, 120], 0)]])
    evaluation = evaluate(Oracle(lambda _: [([20 + shift, 20, 120 + shift, 120], 0.1, 0)]), dataset)
    assert evaluation.metrics["AP50"] == pytest.approx(1.0)
    assert evaluation.metrics["AP75"] == 0.0
    assert evaluation.metrics["AP"] == pytest.approx(0.3), "IoU .5, .55 and .6 of ten thresholds"


def test_metrics_are_those_of_pycocotools_on_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    category_ids = [18, 3, 44]
    dataset = make_dataset(tmp_path, crowd=frozenset({(3, 1)}), category_ids=category_ids)
    evaluation = evaluate(Oracle(noisy), dataset, batch_size=3)
    evaluation.save(tmp_path / "report")
    assert capsys.readouterr() == ("", "")

    annotations = [
        {
            "id": 100 * index + number + 1,
            "image_id": dataset.samples[index].image_id,
            "category_id": category_ids[label],
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            "area": (box[2] - box[0]) * (box[3] - box[1]),
            "iscrowd": int((index, number) == (3, 1)),
        }
        for index, objects in enumerate(TRUTH)
        for number, (box, label) in enumerate(objects)
    ]
    images = [{"id": sample.image_id} for sample in dataset.samples]
    categories = [{"id": number, "name": name} for number, name in zip(category_ids, LABELS, strict=True)]
    (tmp_path / "truth.json").write_text(
        json.dumps({"images": images, "categories": categories, "annotations": annotations})
    )
    truth = COCO(str(tmp_path / "truth.json"))
    found = truth.loadRes(str(tmp_path / "report" / "detections.json"))

    def stats(category_id: int | None = None) -> list[float]:
        scorer = COCOeval(truth, found, "bbox")
        if category_id is not None:
            scorer.params.catIds = [category_id]
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
        return list(scorer.stats)

    names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100"]
    expected = dict(zip(names, stats(), strict=False))
    assert evaluation.metrics == pytest.approx(expected, abs=1e-12)
    assert 0.05 < expected["AP"] < 0.95
    for label in (0, 1):
        per_class = evaluation.per_class[LABELS[label]]
        assert [per_class[name] for name in names[:3]] == pytest.approx(stats(category_ids[label])[:3], abs=1e-12)


def _coco_with_masks(folder: Path) -> tuple[Path, list[dict[str, Any]]]:
    """A folder of COCO whose areas are those of masks, smaller than the boxes, and detections for it."""
    random = np.random.default_rng(3)
    images = [{"id": 5 + index, "file_name": f"{index}.png", "width": 400, "height": 300} for index in range(6)]
    annotations: list[dict[str, Any]] = []
    detections = []
    for image in images:
        path = folder / "val" / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (400, 300)).save(path)
        for _ in range(15):
            x, y, width, height = random.uniform((0, 0, 15, 15), (250, 150, 150, 150)).round(2).tolist()
            number = len(annotations) + 1
            share = random.choice([0.1, 0.5, 1.0])
            annotations.append(
                {
                    "id": number,
                    "image_id": image["id"],
                    "category_id": int(random.choice([3, 18])),
                    "bbox": [x, y, width, height],
                    "area": width * height * share,
                    "iscrowd": int(number % 10 == 0),
                }
            )
            moved = (np.array([x, y, width, height]) + random.normal(0, 3, 4)).astype(np.float32).tolist()
            entry = {"image_id": image["id"], "category_id": annotations[-1]["category_id"], "bbox": moved}
            detections.append({**entry, "score": float(random.random())})
    # The square of 32 px, of an area that float32 takes for 1024, and one that is just as large by its mask.
    extra = [
        {"bbox": [0.0, 0.0, 32.00001, 32.00001], "area": 32.00001**2},
        {"bbox": [300.0, 200.0, 60.0, 60.0], "area": 1024},
    ]
    for each in extra:
        annotations.append({"id": len(annotations) + 1, "image_id": 5, "category_id": 3, "iscrowd": 0, **each})
        detections.append({"image_id": 5, "category_id": 3, "bbox": each["bbox"], "score": 0.99})
    categories = [{"id": 3, "name": "cat"}, {"id": 18, "name": "dog"}]
    path = folder / "annotations" / "instances_val.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"images": images, "categories": categories, "annotations": annotations}))
    return path, detections


@pytest.mark.parametrize("scorer", SCORERS)
def test_sizes_are_the_areas_of_the_file_as_pycocotools_takes_them(scorer: ScorerName, tmp_path: Path) -> None:
    if scorer == "faster-coco-eval":
        pytest.importorskip("faster_coco_eval")
    path, detections = _coco_with_masks(tmp_path / "coco")
    truth = COCO(str(path))
    theirs = COCOeval(truth, truth.loadRes(detections), "bbox")
    theirs.evaluate()
    theirs.accumulate()
    theirs.summarize()
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100"]
    expected = dict(zip(names, theirs.stats.tolist(), strict=False))
    dataset = open_dataset(path.parent.parent, "val")
    ours = measure(dataset, detections, load_scorer(scorer)).metrics
    assert ours == pytest.approx(expected, abs=1e-9)
    by_box = DetectionDataset(
        [replace(sample, areas_px2=areas_of(sample.boxes_xyxy)) for sample in dataset.samples],
        dataset.labels,
        dataset.category_ids,
    )
    others = measure(by_box, detections, load_scorer(scorer)).metrics
    assert all(abs(others[name] - expected[name]) > 0.01 for name in ("APs", "APm", "APl")), "areas make a difference"

    convert_dataset(path.parent.parent, tmp_path / "copy", to="coco")
    again = measure(open_dataset(tmp_path / "copy", "val"), detections, load_scorer(scorer)).metrics
    assert again == pytest.approx(expected, abs=1e-9)


def test_a_box_of_hardly_more_than_32_px_squared_is_not_small(tmp_path: Path) -> None:
    """In float32 its area is 1024 px^2, which is small."""
    side = 32.0000005
    assert np.float32(side) ** 2 == 1024 < side**2
    tables = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, side, side]}],
    }
    (tmp_path / "labels.json").write_text(json.dumps(tables))
    Image.new("RGB", (100, 80)).save(tmp_path / "a.png")
    found = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, side, side], "score": 0.9}]
    metrics = measure(open_dataset(tmp_path), found, load_scorer("pycocotools")).metrics
    assert (metrics["APs"], metrics["APm"]) == (None, pytest.approx(1.0))


def test_precision_holds_a_curve_for_each_class_at_each_iou(tmp_path: Path) -> None:
    evaluation = evaluate(Oracle(noisy), make_dataset(tmp_path))
    assert evaluation.precision.shape == (2, len(RECALLS), 3)
    for label, name in enumerate(LABELS[:2]):
        values = evaluation.per_class[name]
        assert evaluation.precision[:, :, label].mean(axis=1) == pytest.approx([values["AP50"], values["AP75"]])
    assert np.isnan(evaluation.precision[:, :, 2]).all(), "there is no bird"


def test_a_class_without_ground_truth_has_no_ap(tmp_path: Path) -> None:
    evaluation = evaluate(Oracle(the_truth), make_dataset(tmp_path, TRUTH[:1]))
    assert evaluation.per_class["bird"] == {"AP": None, "AP50": None, "AP75": None, "boxes": 0}
    assert evaluation.metrics["APl"] is None
    rows = {line.split()[0]: line.split()[1:] for line in evaluation.table().splitlines() if line}
    assert rows["bird"] == ["0", "-", "-", "-"]
    assert rows["dog"] == ["1", "1.000", "1.000", "1.000"]
    assert rows["all"][0] == "2"
    assert "-1" not in json.dumps(evaluation.to_dict())


def test_crowd_is_neither_missed_nor_a_mistake(tmp_path: Path) -> None:
    crowd = frozenset({(1, 0), (3, 1)})
    in_crowd = {1: [([5.0, 5.0, 40.0, 40.0], 1.0, 1)]}
    dataset = make_dataset(tmp_path, crowd=crowd)
    only_the_rest = Oracle(lambda index: [e for n, e in enumerate(the_truth(index)) if (index, n) not in crowd])
    without = evaluate(only_the_rest, dataset)
    inside_it = evaluate(Oracle(lambda index: [*the_truth(index), *in_crowd.get(index, [])]), dataset)
    assert without.metrics["AP"] == inside_it.metrics["AP"] == pytest.approx(1.0)
    assert without.per_class["dog"]["boxes"] == 1


def test_detections_in_an_empty_picture_are_mistakes(tmp_path: Path) -> None:
    def also_in_the_empty_one(index: int) -> list[tuple[list[float], float, int]]:
        return the_truth(index) or [([0, 0, 50, 50], 0.95, 0)]

    evaluation = evaluate(Oracle(also_in_the_empty_one), make_dataset(tmp_path))
    assert evaluation.per_class["cat"]["AP"] == pytest.approx(3 / 4)
    assert evaluation.per_class["dog"]["AP"] == pytest.approx(1.0)


def test_an_image_that_cannot_be_read_is_named_and_its_objects_are_missed(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    dataset.samples[1].image_path.write_text("no picture")
    dataset.samples[3].image_path.unlink()
    evaluation = evaluate(Oracle(the_truth), dataset, batch_size=2)
    assert [Path(line.split(".png")[0]).name for line in evaluation.notes] == ["1", "3"]
    assert evaluation.per_class["dog"]["AP"] == pytest.approx(0.5, abs=0.01)
    assert evaluation.to_dict()["notes"] == list(evaluation.notes)
    for sample in dataset.samples:
        sample.image_path.unlink(missing_ok=True)
    with pytest.raises(DatasetError, match="none of the 4 images can be read"):
        evaluate(Oracle(the_truth), dataset)


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    models_labels = ("wolf", "dog", "cat")
    number = {0: 2, 1: 1}

    def answer(index: int) -> list[tuple[list[float], float, int]]:
        return [(box, score, number[label]) for box, score, label in the_truth(index)] + [([0, 0, 9, 9], 1.0, 0)]

    evaluation = evaluate(Oracle(answer, models_labels), make_dataset(tmp_path))
    assert evaluation.metrics["AP"] == pytest.approx(1.0)
    assert len(evaluation.notes) == 2
    assert "does not know bird" in evaluation.notes[0]
    assert "no class wolf" in evaluation.notes[1]


def test_a_model_of_other_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="the model knows car, the dataset has cat, dog, bird: no class in common"):
        evaluate(Oracle(the_truth, ("car",)), make_dataset(tmp_path))


@pytest.mark.parametrize("batch_size", [2, 3, 100])
def test_the_batch_size_changes_nothing(tmp_path: Path, batch_size: int) -> None:
    dataset = make_dataset(tmp_path)
    one_by_one, in_batches = (evaluate(Oracle(noisy), dataset, batch_size=size) for size in (1, batch_size))
    assert in_batches.detections == one_by_one.detections
    assert in_batches.metrics == one_by_one.metrics


def test_save_writes_metrics_detections_and_a_picture(tmp_path: Path) -> None:
    evaluation = evaluate(Oracle(noisy), make_dataset(tmp_path))
    evaluation.save(tmp_path / "new" / "report")
    written = tmp_path / "new" / "report"
    assert sorted(path.name for path in written.iterdir()) == ["detections.json", "metrics.json", "pr_curve.png"]
    assert json.loads((written / "metrics.json").read_text()) == evaluation.to_dict()
    assert json.loads((written / "detections.json").read_text()) == evaluation.detections
    with Image.open(written / "pr_curve.png") as picture:
        assert picture.width > picture.height


@pytest.mark.parametrize("known", [0, 1, 30])
def test_precision_recall_is_drawn_for_any_number_of_classes(tmp_path: Path, known: int) -> None:
    precision = np.full((2, 101, 40), np.nan)
    precision[:, :, :known] = np.linspace(1, 0, 101)[None, :, None]
    save_precision_recall(RECALLS, precision, (0.5, 0.75), [f"class {n}" for n in range(40)], tmp_path / "pr.png")
    with Image.open(tmp_path / "pr.png") as picture:
        colors = picture.convert("RGB").getcolors(1 << 24)
    assert len(colors) > 2


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"epoch": 1, "loss": 2.0}],
        [{"epoch": 1, "loss": 2.0, "lr": 0.1}, {"epoch": 2, "loss": 1.0, "lr": 0.1, "AP": None, "AP50": 0.2}],
    ],
)
def test_training_curves_are_drawn_with_gaps(tmp_path: Path, rows: list[dict[str, float | None]]) -> None:
    save_training_curves(rows, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 1000


def test_the_batch_size_changes_no_number(tmp_path: Path) -> None:
    """Images of another size would be padded, and attention over the whole map sees that."""
    model = dyzoo.create_model("dyhead_atss_resnet10t.bccd", pretrained=True)
    random = np.random.default_rng(0)
    samples = []
    for index, (width, height) in enumerate([(96, 64), (64, 96), (96, 64), (96, 64), (128, 64)]):
        path = tmp_path / f"{index}.png"
        Image.fromarray(random.integers(0, 255, (height, width, 3), np.uint8)).save(path)
        box = np.array([[4, 4, 40, 40]], np.float32)
        samples.append(Sample(path, width, height, box, np.zeros(1, np.int64), np.zeros(1, bool), index))
    data = DetectionDataset(samples, model.labels)
    one, four = (dyzoo.evaluate(model, data, batch_size=size, size=64).detections for size in (1, 4))
    assert [(d["image_id"], d["category_id"]) for d in one] == [(d["image_id"], d["category_id"]) for d in four]
    np.testing.assert_allclose([d["bbox"] for d in one], [d["bbox"] for d in four], atol=1e-2)
    np.testing.assert_allclose([d["score"] for d in one], [d["score"] for d in four], atol=1e-4)
