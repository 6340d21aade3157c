"""Pictures put together of many: what is found in each is found through tiles, once, and nothing goes in silence."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dyzoo.images import reading
from dyzoo.images.detections import Detections
from dyzoo.model.boxes import box_areas, pairwise_iou
from dyzoo.model.detector import Detector
from dyzoo.model.missed import MissedWarning
from dyzoo.zoo.catalog import sample_image
from dyzoo.zoo.creation import load_checkpoint
from dyzoo.zoo.names import DEFAULT_MODEL

THRESHOLD = 0.3
TILE = (640, 480)  # (W, H)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return load_checkpoint(DEFAULT_MODEL)


def mosaic(pictures: Sequence[Image.Image], across: int, shift: int) -> Image.Image:
    rows = len(pictures) // across
    whole = Image.new("RGB", (across * TILE[0] + 2 * shift, rows * TILE[1] + 2 * shift), (230, 220, 225))
    for number, picture in enumerate(pictures):
        whole.paste(picture, (shift + number % across * TILE[0], shift + number // across * TILE[1]))
    return whole


def moved(found: Sequence[Detections], across: int, shift: int) -> Detections:
    """The finds in the pictures alone, in pixels of the mosaic."""
    boxes = [
        each.boxes_xyxy + torch.tensor([shift + n % across * TILE[0], shift + n // across * TILE[1]] * 2)
        for n, each in enumerate(found)
    ]
    return replace(
        found[0],
        boxes_xyxy=torch.cat(boxes),
        scores=torch.cat([each.scores for each in found]),
        labels=torch.cat([each.labels for each in found]),
    )


def matches(wanted: Detections, found: Detections) -> int:
    """Number of detections that have a partner of their class, each its own, with an IoU of a half or more."""
    iou = pairwise_iou(wanted.boxes_xyxy, found.boxes_xyxy)
    iou[wanted.labels[:, None] != found.labels] = 0
    free = torch.ones(len(found), dtype=torch.bool)
    count = 0
    for row in iou:
        best = int((row * free).argmax())
        if row[best] * free[best] >= 0.5:
            free[best] = False
            count += 1
    return count


def at_joint(found: Detections, shift: int) -> torch.Tensor:
    """(M,) whether a box comes to within 10 px of where two pictures meet."""
    low, high = found.boxes_xyxy[:, :2] - shift - 10, found.boxes_xyxy[:, 2:] - shift + 10
    sides = torch.tensor(TILE)
    return ((low / sides).floor() != (high / sides).floor()).any(dim=1)


def contained(found: Detections) -> int:
    """Number of pairs of a class of which most of one lies in the other: doubles, halves, boxes around several.

    Cells that lie on each other, which the detector tells apart in single pictures too, share up to three quarters.
    """
    first, second = found.boxes_xyxy[:, None], found.boxes_xyxy[None]
    sides = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2])
    areas = box_areas(found.boxes_xyxy)
    share = sides.clamp(min=0).prod(dim=2) / torch.minimum(areas[:, None], areas)
    return int(((share > 0.8) & (found.labels[:, None] == found.labels)).triu(1).sum())


def check(detector: Detector, pictures: Sequence[Image.Image], across: int, shift: int) -> None:
    alone = detector.predict(pictures, THRESHOLD / 2, batch_size=4)
    wanted = moved([each.filter(THRESHOLD) for each in alone], across, shift)
    whole = mosaic(pictures, across, shift)
    with pytest.warns(MissedWarning, match=r"seen at 0\..* of its size"):
        (shrunk,) = detector.predict(whole, THRESHOLD)
    assert matches(wanted, shrunk) < len(wanted) / 10
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (found,) = detector.predict(whole, THRESHOLD, tiles="auto", batch_size=4)
    assert found.notes == ()
    assert matches(wanted, found) >= 0.95 * len(wanted)
    # Beside other things a cell may get a score above the threshold that was a little below; halves of two cells that
    # meet where pictures do make new ones.
    within = found[~at_joint(found, shift)]
    known = matches(within, moved(alone, across, shift))
    assert known >= 0.95 * len(within)
    assert contained(within) == 0
    overlaps = pairwise_iou(found.boxes_xyxy, found.boxes_xyxy).fill_diagonal_(0)
    assert overlaps[found.labels[:, None] == found.labels].max() <= detector.config.head.nms_threshold


@pytest.mark.parametrize("shift", [0, 137])
def test_a_mosaic_of_the_sample_picture_is_found_whole(detector: Detector, shift: int) -> None:
    with Image.open(sample_image()) as picture:
        upright = picture.convert("RGB").resize(TILE)
    turned = [upright, upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT), upright.rotate(180)]
    check(detector, [turned[n % 3] for n in range(9)], across=3, shift=shift)


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0, 137])
def test_all_cells_of_a_large_picture_are_found(detector: Detector, bccd_folder: Path, shift: int) -> None:
    """Some 450 cells of 36 pictures: slow, since fewer would not tell 95 % from less."""
    names = (bccd_folder / "ImageSets" / "Main" / "val.txt").read_text().split()[:36]
    pictures = []
    for name in names:
        with Image.open(bccd_folder / "JPEGImages" / f"{name}.jpg") as picture:
            pictures.append(picture.convert("RGB"))
    check(detector, pictures, across=6, shift=shift)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine times the sample picture, as a JPEG."""
    path = tmp_path_factory.mktemp("large") / "large.jpg"
    with Image.open(sample_image()) as picture:
        mosaic([picture.convert("RGB").resize(TILE)] * 9, 3, 0).save(path, quality=95)
    return path


def same(a: Detections, b: Detections) -> bool:
    return torch.equal(a.boxes_xyxy, b.boxes_xyxy) and torch.equal(a.scores, b.scores)


def test_a_picture_of_the_training_is_seen_as_ever(detector: Detector) -> None:
    found = [detector.predict(sample_image(), tiles=tiles)[0] for tiles in ("off", "auto", 1)]  # type: ignore[arg-type]
    assert same(found[0], found[1])
    assert same(found[0], found[2])


def test_few_tiles_are_in_memory_at_a_time(detector: Detector, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def forward(images: Sequence[torch.Tensor], targets: Any = None) -> list[dict[str, torch.Tensor]]:
        seen.append(len(images))
        empty = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
        return [empty for _ in images]

    monkeypatch.setattr(detector, "forward", forward)
    answers = detector.predict([large, sample_image()], tiles=5, batch_size=3)
    assert [len(answer) for answer in answers] == [0, 0]
    assert sum(seen) == 2 * (25 + 1)
    assert max(seen) == 3


def test_a_file_decoded_at_a_reduced_scale_has_the_boxes_of_the_whole(
    detector: Detector, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole,) = detector.predict(large, 0.5, tiles=3, size=160)
    monkeypatch.setattr(reading, "REDUCED_ABOVE", 100_000)
    (reduced,) = detector.predict(large, 0.4, tiles=3, size=160)
    assert reduced.image_size == (1440, 1920)
    assert matches(whole, reduced) >= 0.9 * len(whole) > 5


# --- limits -----------------------------------------------------------------------------------------------------------


def test_the_limit_is_said_and_one_call_may_lift_it(detector: Detector) -> None:
    picture = sample_image()
    with pytest.warns(MissedWarning, match="5 objects are kept") as said:
        few, again = detector.predict([picture, picture], THRESHOLD, max_detections=5)
    assert len(said) == 1, "once for a call"
    assert len(few) == 5
    assert few.notes == again.notes
    assert "max_detections=" in few.notes[0]
    config = detector.config
    (many,) = detector.predict(picture, THRESHOLD, max_detections=500)
    assert many.notes == ()
    assert len(many) > 5
    assert detector.config is config
    (best,) = detector.predict(picture, 0, max_detections=5)
    assert best.notes == (), "threshold 0 asks for the best ones"


def test_with_tiles_the_limit_is_that_of_the_picture_if_it_is_given(detector: Detector, large: Path) -> None:
    (all_found,) = detector.predict(large, THRESHOLD, tiles=3)
    (best,) = detector.predict(large, THRESHOLD, tiles=3, max_detections=30)
    assert len(all_found) > 30
    assert torch.equal(best.scores, all_found.scores[:30])
    assert "may be more" in best.notes[0]


def test_the_iou_of_a_call_is_that_of_nms(detector: Detector) -> None:
    pairs = []
    for iou in (0.1, None, 0.95):
        (found,) = detector.predict(sample_image(), 0.1, iou=iou, max_detections=300)
        overlaps = pairwise_iou(found.boxes_xyxy, found.boxes_xyxy).fill_diagonal_(0)
        overlaps[found.labels[:, None] != found.labels] = 0
        assert overlaps.max() <= (0.6 if iou is None else iou) + 0.05  # boxes are clipped after NMS
        pairs.append(len(found))
    assert pairs[0] < pairs[1] < pairs[2]


@pytest.mark.parametrize(
    "setting",
    [
        {"iou": -0.1},
        {"iou": True},
        {"max_detections": 0},
        {"max_detections": 2.0},
        {"max_detections": 10_001},
        {"tiles": 0},
        {"tiles": "yes"},
        {"precision": "int8"},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(detector: Detector, setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        detector.predict(np.zeros((48, 64, 3), np.uint8), **setting)
