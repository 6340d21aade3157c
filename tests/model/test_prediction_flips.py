"""Detecting in flipped views: boxes come back where they belong, and what the views agree on is found once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dyzoo.config import (
    ATSSConfig,
    FasterRCNNConfig,
    FCOSConfig,
    FPNConfig,
    GroundedATSSConfig,
    HeadConfig,
    RetinaNetConfig,
)
from dyzoo.model.detector import Detector
from dyzoo.model.views import Flip
from tests.model.narrow_detectors import narrow_detector

LABELS = ("cat", "dog", "bird")
LOW: dict[str, HeadConfig] = {  # thresholds under which untrained heads find something, and fewer anchors
    "atss": ATSSConfig(score_threshold=0.0, max_detections=20, candidates_per_level=50),
    "grounded_atss": GroundedATSSConfig(score_threshold=0.0, max_detections=20, candidates_per_level=50),
    "retinanet": RetinaNetConfig(num_convs=1, score_threshold=0.0, max_detections=20, candidates_per_level=50),
    "fcos": FCOSConfig(score_threshold=0.0, max_detections=20, candidates_per_level=50),
    "faster_rcnn": FasterRCNNConfig(
        hidden_features=32, num_proposals=40, rpn_candidates_test=50, score_threshold=0.0, max_detections=20
    ),
}
DIMENSION = {"horizontal": 1, "vertical": 0}  # of a picture (H, W, 3)


def make_detector(kind: str = "atss") -> Detector:
    fpn = FPNConfig(channels=32, **({"finest_stride": 4, "top": "pool"} if kind == "faster_rcnn" else {}))
    return narrow_detector((96, 160), labels=LABELS, fpn=fpn, head=LOW[kind])


@pytest.fixture(scope="module")
def detectors() -> dict[str, Detector]:
    return {kind: make_detector(kind) for kind in LOW}


def picture(height: int = 90, width: int = 117) -> np.ndarray:
    """Sides that no stride divides."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def flipped(image: np.ndarray, flip: str) -> np.ndarray:
    return np.flip(image, DIMENSION[flip]).copy()


def mirror(boxes: Tensor, flip: str, height: int, width: int) -> Tensor:
    x1, y1, x2, y2 = boxes.unbind(1)
    if flip == "horizontal":
        return torch.stack([width - x2, y1, width - x1, y2], dim=1)
    return torch.stack([x1, height - y2, x2, height - y1], dim=1)


class Scripted:
    """Stands in for a detector's network: for each view, in the order they are shown, what is found in every image."""

    def __init__(self, *views: Sequence[tuple[list[float], float, int]]) -> None:
        self.views = list(views)
        self.shown: list[list[Tensor]] = []

    def __call__(self, images: Sequence[Tensor], targets: Any = None) -> list[dict[str, Tensor]]:
        found = self.views[len(self.shown) % len(self.views)]
        self.shown.append(list(images))
        return [
            {
                "boxes": torch.tensor([box for box, _, _ in found]).reshape(-1, 4),
                "scores": torch.tensor([score for _, score, _ in found]),
                "labels": torch.tensor([label for _, _, label in found], dtype=torch.int64),
            }
            for _ in images
        ]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, detectors: dict[str, Detector]) -> Any:
    def make(*views: Sequence[tuple[list[float], float, int]], **head: Any) -> tuple[Detector, Scripted]:
        detector, script = detectors["atss"], Scripted(*views)
        monkeypatch.setattr(detector, "forward", script)
        monkeypatch.setattr(detector, "config", replace(detector.config, head=replace(detector.config.head, **head)))
        return detector, script

    return make


@pytest.mark.parametrize("flip", ["horizontal", "vertical"])
@pytest.mark.parametrize("kind", LOW)
def test_a_flipped_picture_has_the_flipped_detections(detectors: dict[str, Detector], kind: str, flip: Flip) -> None:
    """This holds for any detector, symmetric or not: both pictures are seen both ways."""
    image, detector = picture(), detectors[kind]
    (first,), (second,) = (
        detector.predict(view, threshold=0, size="native", flips=[flip]) for view in (image, flipped(image, flip))
    )
    (without,) = detector.predict(image, threshold=0, size="native")
    assert len(first) > 5
    assert not torch.equal(first.scores, without.scores)
    torch.testing.assert_close(first.scores, second.scores, rtol=1e-4, atol=1e-6)
    assert first.labels.equal(second.labels)
    back = mirror(second.boxes_xyxy, flip, 90, 117)
    torch.testing.assert_close(first.boxes_xyxy, back, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("kind", LOW)
def test_without_flips_nothing_is_different_to_the_last_bit(detectors: dict[str, Detector], kind: str) -> None:
    detector = detectors[kind]
    (found,) = detector.predict(picture(), threshold=0, size="native", flips=())
    with torch.inference_mode():
        (raw,) = detector([torch.from_numpy(picture()).permute(2, 0, 1)])
    assert found.boxes_xyxy.equal(raw["boxes"])
    assert found.scores.equal(raw["scores"])
    assert found.labels.equal(raw["labels"])


def test_what_a_symmetric_detector_finds_is_found_once(scripted: Any) -> None:
    boxes = [([10.0, 20.0, 30.0, 60.0], 0.9, 0), ([87.0, 20.0, 107.0, 60.0], 0.8, 0), ([50.0, 5.0, 67.0, 85.0], 0.7, 2)]
    height, width = 90, 117
    seen_flipped = [([width - b[2], b[1], width - b[0], b[3]], score, label) for b, score, label in boxes]
    detector, _ = scripted(boxes, seen_flipped)
    (alone,) = detector.predict(picture(height, width), size="native")
    detector, _ = scripted(boxes, seen_flipped)
    (found,) = detector.predict(picture(height, width), size="native", flips=["horizontal"])
    assert found.boxes_xyxy.equal(alone.boxes_xyxy)
    assert found.scores.equal(alone.scores)
    assert found.labels.equal(alone.labels)


@pytest.mark.parametrize(("flip", "expected"), [("horizontal", [107.0, 20, 117, 30]), ("vertical", [0.0, 60, 10, 70])])
def test_a_box_at_the_edge_comes_back_to_the_pixel(scripted: Any, flip: Flip, expected: list[float]) -> None:
    detector, script = scripted([], [([0.0, 20.0, 10.0, 30.0], 0.5, 1)])
    (found,) = detector.predict(picture(90, 117), size="native", flips=[flip])
    assert found.boxes_xyxy.tolist() == [expected]
    assert found.labels.tolist() == [1]
    (plain,), (seen,) = script.shown
    assert seen.equal(plain.flip(-1 if flip == "horizontal" else -2))


def test_the_resized_picture_is_flipped_and_boxes_are_of_the_original(scripted: Any) -> None:
    detector, script = scripted([], [([0.0, 0.0, 12.0, 24.0], 0.5, 1)])
    (found,) = detector.predict(picture(45, 60), size=90, flips=["horizontal"])  # twice as large
    assert [tuple(view[0].shape) for view in script.shown] == [(3, 90, 120)] * 2
    assert found.boxes_xyxy.tolist() == [[54.0, 0.0, 60.0, 12.0]]


def test_every_picture_of_a_batch_is_flipped_by_its_own_size(scripted: Any) -> None:
    detector, _ = scripted([], [([0.0, 0.0, 10.0, 10.0], 0.5, 1)])
    sizes = [(50, 80), (90, 117), (40, 40)]
    found = detector.predict([picture(*size) for size in sizes], size="native", batch_size=3, flips=["horizontal"])
    assert [detections.boxes_xyxy[0].tolist() for detections in found] == [
        [width - 10.0, 0.0, width, 10.0] for _, width in sizes
    ]


def test_views_are_merged_class_by_class_at_the_heads_threshold(scripted: Any) -> None:
    plain = [([0.0, 0.0, 10.0, 10.0], 0.6, 0)]
    # of the picture as it is: IoU .7 with that box in the same class, the same in another, IoU .5 in the same
    others = [([0.0, 0.0, 7.0, 10.0], 0.9, 0), ([0.0, 0.0, 7.0, 10.0], 0.5, 1), ([0.0, 0.0, 10.0, 5.0], 0.4, 0)]
    seen = [([100 - b[2], b[1], 100 - b[0], b[3]], score, label) for b, score, label in others]
    detector, _ = scripted(plain, seen, nms_threshold=0.6)
    (found,) = detector.predict(picture(50, 100), size="native", flips=["horizontal"])
    assert found.scores.tolist() == pytest.approx([0.9, 0.5, 0.4])
    assert found.labels.tolist() == [0, 1, 0]
    detector, _ = scripted(plain, seen, nms_threshold=0.75)
    (found,) = detector.predict(picture(50, 100), size="native", flips=["horizontal"])
    assert found.scores.tolist() == pytest.approx([0.9, 0.6, 0.5, 0.4])


def test_the_heads_limit_and_the_threshold_hold_for_the_merged_detections(scripted: Any) -> None:
    def row(y: float, score: float) -> list[tuple[list[float], float, int]]:
        return [([10.0 * n, y, 10.0 * n + 8, y + 9], score - n / 100, 0) for n in range(5)]

    views = [row(0, 0.5), row(20, 0.52)]
    detector, _ = scripted(*views, max_detections=7)
    (found,) = detector.predict(picture(), threshold=0, size="native", flips=["horizontal"])
    assert found.scores.tolist() == pytest.approx([0.52, 0.51, 0.5, 0.5, 0.49, 0.49, 0.48])
    detector, _ = scripted(*views, max_detections=7)
    (found,) = detector.predict(picture(), threshold=0.495, size="native", flips=["horizontal"])
    assert len(found) == 4


def test_both_flips_are_two_more_views_and_one_named_twice_is_one(scripted: Any) -> None:
    for flips, views in ((("horizontal", "vertical"), 3), (("vertical", "vertical"), 2), ((), 1)):
        detector, script = scripted([])
        detector.predict([picture(), picture()], size="native", batch_size=2, flips=flips)
        assert [len(images) for images in script.shown] == [2] * views


@pytest.mark.parametrize("flips", ["horizontal", ["diagonal"], ["horizontal", None]])
def test_an_unknown_flip_is_refused(detectors: dict[str, Detector], flips: Any) -> None:
    with pytest.raises(ValueError, match="expected a list with 'horizontal', 'vertical' or both"):
        detectors["atss"].predict(picture(), flips=flips)
