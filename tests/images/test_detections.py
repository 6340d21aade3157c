import json
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dyzoo.images.colors import class_color, text_color
from dyzoo.images.detections import Detections
from dyzoo.images.reading import Picture

NAMES = ("cat", "dog", "bird")
GREY = (128, 128, 128)


def detections(*found: tuple[list[float], float, int], size: tuple[int, int] = (400, 600)) -> Detections:
    """Detections from (box_xyxy, score, label) triples, in an image of that (H, W)."""
    return Detections(
        boxes_xyxy=torch.tensor([box for box, _, _ in found], dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor([score for _, score, _ in found], dtype=torch.float32),
        labels=torch.tensor([label for _, _, label in found], dtype=torch.int64),
        names=NAMES,
        image_size=size,
    )


@pytest.fixture
def three() -> Detections:
    return detections(([10, 20, 110, 220], 0.9, 1), ([0, 0, 5, 5], 0.5, 0), ([300, 100, 400, 160], 0.25, 1))


def test_iterating_gives_boxes_scores_labels_and_names_in_order(three: Detections) -> None:
    first, second, third = three
    assert first == ((10, 20, 110, 220), pytest.approx(0.9), 1, "dog")
    assert (second.name, third.score, len(three)) == ("cat", 0.25, 3)


@pytest.mark.parametrize(
    ("index", "scores"),
    [
        (slice(1, None), [0.5, 0.25]),
        (torch.tensor([True, False, True]), [0.9, 0.25]),
        ([False, True, False], [0.5]),
        (torch.tensor([2, 0]), [0.25, 0.9]),
        ([2, 2], [0.25, 0.25]),
        ([], []),
    ],
)
def test_indexing_keeps_boxes_scores_and_labels_together(three: Detections, index: object, scores: list[float]) -> None:
    chosen = three[index]  # type: ignore[call-overload]
    assert chosen.scores.tolist() == pytest.approx(scores)
    by_score = {round(d.score, 2): d for d in three}
    assert list(chosen) == [by_score[round(score, 2)] for score in scores]
    assert (chosen.names, chosen.image_size) == (three.names, three.image_size)


def test_a_number_gives_one_detection(three: Detections) -> None:
    assert three[-1] == three[2] == list(three)[2]
    with pytest.raises(IndexError, match="detection 3 of 3"):
        three[3]


def test_filter_keeps_scores_at_the_threshold(three: Detections) -> None:
    assert [d.name for d in three.filter(0.5)] == ["dog", "cat"]
    assert len(three.filter(0.95)) == 0


def test_counts_name_only_what_was_found_the_most_frequent_first(three: Detections) -> None:
    assert list(three.counts().items()) == [("dog", 2), ("cat", 1)]
    assert detections().counts() == {}


def test_to_dict_survives_json(three: Detections) -> None:
    plain = json.loads(json.dumps(three.to_dict()))
    assert (plain["height_px"], plain["width_px"], plain["path"]) == (400, 600, None)
    assert plain["detections"][0] == {"name": "dog", "label": 1, "score": 0.9, "box_xyxy": [10, 20, 110, 220]}


def test_to_coco_gives_corner_and_size_with_the_datasets_category_ids(three: Detections) -> None:
    assert three.to_coco(7)[0] == {
        "image_id": 7,
        "category_id": 2,
        "bbox": [10, 20, 100, 200],
        "score": pytest.approx(0.9),
    }
    assert [entry["category_id"] for entry in three.to_coco(7, [18, 3, 44])] == [3, 18, 3]
    with pytest.raises(ValueError, match="got 2 category ids, expected one for each of 3"):
        three.to_coco(7, [1, 2])


@pytest.mark.parametrize(
    ("boxes", "scores", "labels", "message"),
    [
        (torch.zeros(2, 4), torch.zeros(3), torch.zeros(2, dtype=torch.int64), r"\(2, 4\), \(3,\), \(2,\), expected"),
        (torch.zeros(2, 5), torch.zeros(2), torch.zeros(2, dtype=torch.int64), "expected"),
        (torch.zeros(0), torch.zeros(0), torch.zeros(0, dtype=torch.int64), "expected"),
        (torch.zeros(1, 4), torch.zeros(1), torch.tensor([3]), r"labels lie in 3\.\.3, .* 3 names"),
        (torch.zeros(1, 4), torch.zeros(1), torch.tensor([-1]), "labels lie in"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Detections(boxes, scores, labels, NAMES, (10, 10))


def test_to_supervision_names_the_missing_package(three: Detections, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        three.to_supervision()


@pytest.fixture
def supervision() -> Any:
    return pytest.importorskip("supervision", reason="supervision is not installed")


def test_to_supervision_keeps_everything(three: Detections, supervision: Any) -> None:
    converted = three.to_supervision()
    np.testing.assert_array_equal(converted.xyxy, three.boxes_xyxy.numpy())
    np.testing.assert_array_equal(converted.confidence, three.scores.numpy())
    np.testing.assert_array_equal(converted.class_id, three.labels.numpy())
    assert list(converted.data["class_name"]) == ["dog", "cat", "dog"]


def test_supervision_filters_by_the_name_of_a_class(three: Detections, supervision: Any) -> None:
    converted = three.to_supervision()
    dogs = converted[converted["class_name"] == "dog"]
    np.testing.assert_array_equal(dogs.xyxy, three.boxes_xyxy[[0, 2]].numpy())
    assert list(dogs["class_name"]) == ["dog", "dog"]
    assert len(converted[converted["class_name"] == "bird"]) == 0
    assert len(converted[np.isin(converted["class_name"], ["cat", "dog"])]) == 3


def test_supervision_takes_nothing_found(supervision: Any) -> None:
    nothing = detections().to_supervision()
    assert len(nothing) == len(nothing[nothing["class_name"] == "dog"]) == 0
    merged = supervision.Detections.merge([detections(([1, 2, 30, 40], 0.5, 2)).to_supervision(), nothing])
    assert list(merged["class_name"]) == ["bird"]


def test_supervision_tracks_objects(supervision: Any) -> None:
    if hasattr(supervision, "ByteTrack"):
        update = supervision.ByteTrack().update_with_detections
    else:  # its trackers have a package of their own since 0.30
        update = pytest.importorskip("trackers", reason="trackers is not installed").ByteTrackTracker().update
    frames = [detections(([10 + x, 20, 110 + x, 220], 0.9, 1), ([300, 100, 400, 160], 0.8, 0)) for x in range(0, 20, 4)]
    tracked = [update(frame.to_supervision()) for frame in frames]
    numbers = [dict(zip(frame["class_name"], frame.tracker_id.tolist(), strict=True)) for frame in tracked]
    assert set(numbers[-1]) == {"dog", "cat"}
    assert min(numbers[-1].values()) >= 0
    assert numbers[-1] == numbers[-2] == numbers[-3], "the first frames may wait for more"


def test_supervision_slices_an_image(supervision: Any) -> None:
    def detect(tile: np.ndarray) -> Any:
        height, width = tile.shape[:2]
        return detections(([0, 0, width, height], 0.9, 1), size=(height, width)).to_supervision()

    slicer = supervision.InferenceSlicer(callback=detect, slice_wh=(100, 100), overlap_wh=(0, 0))
    found = slicer(np.zeros((200, 200, 3), np.uint8))
    assert sorted(found.xyxy.tolist()) == [[x, y, x + 100, y + 100] for x in (0, 100) for y in (0, 100)]
    assert set(found["class_name"]) == {"dog"}


def test_supervision_measures_the_average_precision(three: Detections, supervision: Any) -> None:
    from supervision.metrics import MeanAveragePrecision

    converted = three.to_supervision()
    truth = supervision.Detections(xyxy=converted.xyxy, class_id=converted.class_id)
    assert MeanAveragePrecision().update([converted], [truth]).compute().map50_95 == pytest.approx(1.0)
    dogs = converted[converted["class_name"] == "dog"]
    assert MeanAveragePrecision().update([dogs], [truth]).compute().map50_95 == pytest.approx(0.5)


@pytest.mark.parametrize("size", [(480, 640), (64, 2000), (3000, 500)])
def test_plot_marks_the_boxes_and_leaves_the_rest_alone(size: tuple[int, int]) -> None:
    height, width = size
    box = [width * 0.3, height * 0.4, width * 0.6, height * 0.7]
    image = Image.new("RGB", (width, height), GREY)
    drawn = np.asarray(detections((box, 0.9, 1), size=size).plot(image))
    assert drawn.shape == (height, width, 3)
    assert tuple(drawn[int(height * 0.55), round(width * 0.3)]) == class_color(1)
    assert tuple(drawn[round(height * 0.7) - 1, int(width * 0.45)]) == class_color(1)
    assert tuple(drawn[-1, -1]) == GREY
    assert tuple(drawn[int(height * 0.6), int(width * 0.45)]) == GREY, "the inside of the box is free"
    assert image.getpixel((round(width * 0.3), int(height * 0.55))) == GREY, "the image given is not changed"


def test_lines_and_letters_grow_with_the_image() -> None:
    shares = []
    for side in (500, 2000):
        image = Image.new("RGB", (side, side), GREY)
        box = [0.2 * side, 0.2 * side, 0.8 * side, 0.8 * side]
        drawn = np.asarray(detections((box, 0.9, 0), size=(side, side)).plot(image))
        shares.append((drawn != GREY).any(axis=2).mean())
    assert shares[0] == pytest.approx(shares[1], rel=0.2)


@pytest.mark.parametrize("size", [(1, 1), (48, 64), (200, 160)])
def test_small_images_are_enlarged_by_a_whole_number_so_that_labels_leave_the_object_free(
    size: tuple[int, int],
) -> None:
    image = Image.new("RGB", (size[1], size[0]), GREY)
    drawn = detections(([0, 0, size[1], size[0]], 0.9, 2), size=size).plot(image)
    assert drawn.width >= 480 or drawn.height >= 480
    assert (drawn.width % size[1], drawn.width * size[0]) == (0, drawn.height * size[1])
    assert (np.asarray(drawn) == GREY).all(axis=2).mean() > 0.7


def test_labels_stay_whole_wherever_the_box_lies() -> None:
    corners = [(0, 0), (550, 0), (0, 350), (550, 350), (250, 200)]
    painted = []
    for x, y in corners:
        drawn = detections(([x, y, x + 50, y + 50], 0.9, 1)).plot(Image.new("RGB", (600, 400), GREY))
        painted.append(int((np.asarray(drawn) != GREY).any(axis=2).sum()))
    label_only = painted[-1] - 4 * 2 * 50
    assert min(painted) > label_only + 4 * 50, f"a label was cut off: {painted}"


def test_labels_do_not_cover_each_other_while_there_is_room() -> None:
    box = [200.0, 150.0, 300.0, 250.0]
    found = [(box, 0.9, label) for label in (0, 1, 2, 0, 1)]
    drawn = np.asarray(detections(*found).plot(Image.new("RGB", (600, 400), GREY)))
    alone = np.asarray(detections(found[0]).plot(Image.new("RGB", (600, 400), GREY)))

    def labelled_px(pixels: np.ndarray) -> int:
        return int((pixels != GREY).any(axis=2).sum()) - 4 * 2 * 100

    assert labelled_px(alone) > 500
    assert labelled_px(drawn) > 4.5 * labelled_px(alone)


def test_boxes_beyond_the_image_and_without_area_are_drawn_at_its_edge() -> None:
    beyond = detections(([-50, -50, 9000, 9000], 0.9, 0), ([700, 500, 800, 600], 0.8, 1), ([5, 5, 5, 5], 0.7, 2))
    drawn = beyond.plot(Image.new("RGB", (600, 400), GREY))
    assert drawn.size == (600, 400)
    assert drawn.getpixel((0, 200)) == class_color(0)


def test_plot_reads_the_image_again_from_its_path(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (600, 400), GREY).save(path)
    found = detections(([10, 10, 60, 60], 0.9, 0))
    assert np.asarray(Detections(**{**vars(found), "path": path}).plot()).shape == (400, 600, 3)
    with pytest.raises(ValueError, match="no path: give the image"):
        found.plot()
    with pytest.raises(ValueError, match=r"the image is 4 x 6 .* 400 x 600"):
        found.plot(Image.new("RGB", (6, 4)))


def test_plot_takes_a_picture_at_a_reduced_scale() -> None:
    found = detections(([100, 80, 400, 300], 0.9, 1), size=(1600, 2400))
    drawn = np.asarray(found.plot(Picture(Image.new("RGB", (600, 400), GREY), (1600, 2400))))
    expected = detections(([25, 20, 100, 75], 0.9, 1)).plot(Image.new("RGB", (600, 400), GREY))
    assert np.array_equal(drawn, np.asarray(expected))
    with pytest.raises(ValueError, match="draw on the image they were made from"):
        found.plot(Picture(Image.new("RGB", (600, 400), GREY), (400, 600)))


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.linalg.norm(first - second))


def test_class_colours_are_all_different() -> None:
    colors = [np.array(class_color(label), dtype=float) for label in range(256)]
    assert min(_distance(a, b) for a, b in combinations(colors[:20], 2)) > 60
    assert min(_distance(a, b) for a, b in combinations(colors[:80], 2)) > 30
    assert min(_distance(a, b) for a, b in combinations(colors, 2)) > 0
    assert class_color(5) == class_color(5 + 256)


def test_the_first_colours_differ_for_the_colour_blind() -> None:
    # Viénot, Brettel, Mollon 1999: linear RGB as a deuteranope and a protanope see it.
    deuteranope = np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]])
    protanope = np.array([[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]])
    linear = [(np.array(class_color(label)) / 255) ** 2.2 for label in range(7)]
    for seen_by in (deuteranope, protanope):
        seen = [(seen_by @ color).clip(0) ** (1 / 2.2) * 255 for color in linear]
        assert min(_distance(a, b) for a, b in combinations(seen, 2)) > 30


def _luminance(color: tuple[int, int, int]) -> float:
    values = np.array(color) / 255
    return float(
        np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
    )


@pytest.mark.parametrize("label", range(0, 100, 3))
def test_text_on_every_class_colour_has_the_contrast_that_wcag_asks_for(label: int) -> None:
    background = class_color(label)
    low, high = sorted((_luminance(background), _luminance(text_color(background))))
    assert (high + 0.05) / (low + 0.05) >= 4.5
