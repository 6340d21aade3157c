"""Half precision: weights of half size and float32 weights computed with in less, for all heads and both DyHeads."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dyzoo.images.detections import Detections
from dyzoo.model.boxes import pairwise_iou
from dyzoo.model.detector import Detector
from dyzoo.model.precision import Precision
from dyzoo.model.preprocess import batch_images
from dyzoo.zoo.catalog import sample_image
from dyzoo.zoo.creation import load_checkpoint
from dyzoo.zoo.names import DEFAULT_MODEL
from tests.model.narrow_detectors import HEADS, detector_with_head

HALVES: dict[Precision, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (90, 117, 3), dtype=np.uint8)


def close(found: Detections, wanted: Detections, precision: Precision) -> None:
    assert (found.boxes_xyxy.dtype, found.scores.dtype) == (torch.float32, torch.float32)
    assert len(found) > 0
    count = min(len(found), len(wanted), 5)
    torch.testing.assert_close(found.scores[:count], wanted.scores[:count], rtol=0.02, atol=2e-3)


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("form", ["pyramid", "tensor"])
@pytest.mark.parametrize("kind", HEADS)
def test_every_detector_predicts_in_half_precision(kind: str, form: str, precision: Precision) -> None:
    detector = detector_with_head(kind, form)
    (wanted,) = detector.predict(noise(), 0.0)
    (computed,) = detector.predict(noise(), 0.0, precision=precision, flips=["horizontal"])
    close(computed, wanted, precision)
    assert detector.dtype == torch.float32
    (cast,) = detector.to(HALVES[precision]).predict(noise(), 0.0)
    close(cast, wanted, precision)


@pytest.fixture(scope="module")
def cells() -> Detector:
    return load_checkpoint(DEFAULT_MODEL)


@pytest.mark.parametrize("precision", HALVES)
def test_a_trained_detector_finds_the_same_in_half_precision(cells: Detector, precision: Precision) -> None:
    (wanted,) = cells.predict(sample_image(), 0.5)
    (found,) = cells.predict(sample_image(), 0.4, precision=precision)
    iou = pairwise_iou(wanted.boxes_xyxy, found.boxes_xyxy).amax(dim=1)
    assert len(wanted) > 3
    assert iou.min() > 0.95
    (full,) = cells.predict(sample_image(), 0.5, precision="fp32")
    assert torch.equal(full.boxes_xyxy, wanted.boxes_xyxy)


@pytest.mark.parametrize("dtype", HALVES.values(), ids=str)
def test_boxes_of_large_pictures_lose_no_pixels(dtype: torch.dtype) -> None:
    """From 2048 on float16 counts by twos and from 256 on bfloat16 does: positions stay in float32."""
    detector = detector_with_head("atss").to(dtype)
    levels = [torch.zeros(1, 32, 4, 640 // n, dtype=dtype) for n in (1, 2, 4, 8, 16)]
    raw = detector.head(levels)
    (found,) = detector.head.decode(raw, [(32, 5120)])
    centers = (found["boxes"][:, 0] + found["boxes"][:, 2]) / 2
    assert found["boxes"].dtype == torch.float32
    for level in raw["cls"]:
        level.fill_(-20)
    raw["cls"][0][0, 0, 0, 601] = 5
    (found,) = detector.head.decode(raw, [(32, 5120)])
    assert len(centers) > 0
    assert (found["boxes"][0, 0] + found["boxes"][0, 2]) / 2 == pytest.approx(601.5 * 8, abs=0.2)


def test_pixels_are_normalised_in_float32_and_cast_last() -> None:
    config = detector_with_head("atss").config.preprocess
    image = torch.from_numpy(noise()).permute(2, 0, 1)
    wide, _ = batch_images([image], config, torch.device("cpu"))
    half, _ = batch_images([image], config, torch.device("cpu"), torch.float16)
    assert torch.equal(half, wide.half())


def test_threads_compute_each_in_its_own_precision(cells: Detector) -> None:
    settings: list[Precision | None] = [None, "bf16", "fp16", "fp32"]
    expected = [cells.predict(sample_image(), 0.3, precision=precision)[0] for precision in settings]
    answers: dict[int, Any] = {}
    together = threading.Barrier(len(settings))

    def work(number: int) -> None:
        together.wait(60)
        answers[number] = cells.predict(sample_image(), 0.3, precision=settings[number])[0]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(settings))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for number, wanted in enumerate(expected):
        torch.testing.assert_close(answers[number].scores, wanted.scores)
    assert not torch.equal(expected[0].scores, expected[1].scores)


def test_half_weights_compute_in_nothing_else() -> None:
    detector = detector_with_head("atss").half()
    (found,) = detector.predict(noise(), 0.0)
    (named,) = detector.predict(noise(), 0.0, precision="fp16")
    assert torch.equal(found.scores, named.scores)
    for other in ("fp32", "bf16"):
        with pytest.raises(ValueError, match=r"call model\.float\(\) first"):
            detector.predict(noise(), precision=other)


def test_files_of_half_weights_load_as_float32_and_predict(tmp_path: Path) -> None:
    detector = detector_with_head("atss").half()
    (wanted,) = detector.predict(noise(), 0.0)
    detector.save_pretrained(tmp_path)
    loaded = Detector.from_pretrained(tmp_path)
    assert loaded.dtype == torch.float32
    close(loaded.predict(noise(), 0.0)[0], wanted, "fp16")
    assert torch.equal(loaded.half().predict(noise(), 0.0)[0].scores, wanted.scores)
