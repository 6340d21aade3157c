"""Predicting over many pictures: failures as values, streams, limits, huge pictures, several threads."""

from __future__ import annotations

import copy
import os
import pickle
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dyzoo.errors import ImageError
from dyzoo.images import reading
from dyzoo.images.detections import Detections
from dyzoo.model.detector import Detector
from tests.model.narrow_detectors import eager_detector


@pytest.fixture(scope="module")
def model() -> Detector:
    return eager_detector()


def noise(seed: int, height: int = 64, width: int = 96) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def same(a: Detections, b: Detections) -> bool:
    return torch.equal(a.boxes_xyxy, b.boxes_xyxy) and torch.equal(a.scores, b.scores)


@pytest.mark.parametrize("batch_size", [1, 2, 7])
@pytest.mark.parametrize("stream", [False, True])
def test_there_is_an_answer_for_each_source_failures_as_values(
    model: Detector, tmp_path: Path, batch_size: int, stream: bool
) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    good = [noise(seed) for seed in range(3)]
    bad = [tmp_path / "fifo.png", tmp_path / "absent.png", np.zeros((3, 5), np.int64), tmp_path / ("n" * 300), 17]
    sources = [bad[0], good[0], bad[1], bad[2], good[1], bad[3], good[2], bad[4]]
    answers = list(model.predict(sources, 0.0, batch_size=batch_size, on_error="return", stream=stream))  # type: ignore[call-overload]
    assert [isinstance(answer, ImageError) for answer in answers] == [True, False, True, True, False, True, False, True]
    for image, answer in zip(good, (answers[1], answers[4], answers[6]), strict=True):
        torch.testing.assert_close(answer.scores, model.predict(image, 0.0)[0].scores, atol=1e-5, rtol=1e-4)
    assert "fifo.png" in str(answers[0])
    assert all(answer.__traceback__ is None for answer in answers if isinstance(answer, ImageError))


def test_an_error_is_raised_unless_asked_for_and_a_wrong_choice_is_named(model: Detector, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="absent"):
        model.predict([noise(0), tmp_path / "absent.png"])
    for options in ({"on_error": "ignore"}, {"flips": "horizontal"}, {"size": 0}, {"size": 16_385}, {"size": 1.5}):
        with pytest.raises(ValueError, match="expected"):
            model.predict([], stream=True, **options)  # type: ignore[call-overload]


def test_a_stream_reads_when_asked_and_holds_nothing(model: Detector) -> None:
    asked: list[int] = []

    def sources() -> Iterator[np.ndarray]:
        for number in range(1000):
            asked.append(number)
            yield noise(number)

    model.train()
    stream = model.predict(sources(), 0.0, batch_size=2, stream=True)
    assert asked == []
    first = [next(stream), next(stream)]
    assert asked == [0, 1]
    assert all(module.training for module in model.modules()), "between its answers"
    next(stream)
    assert asked == [0, 1, 2, 3]
    stream.close()
    model.eval()
    assert all(same(a, b) for a, b in zip(first, model.predict([noise(0), noise(1)], 0.0, batch_size=2), strict=True))


def test_a_batch_that_is_too_large_goes_one_by_one(model: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [noise(0), noise(1)]
    alone = [model.predict(picture, 0.0, size="native")[0] for picture in pictures]
    monkeypatch.setattr("dyzoo.model.sizes.MAX_BATCH_PIXELS", 2 * 64 * 96 - 1)
    together = model.predict(pictures, 0.0, size="native", batch_size=2)
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))


def test_a_picture_too_large_for_the_network_is_refused_alone(model: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dyzoo.model.sizes.MAX_BATCH_PIXELS", 64 * 96)
    first, second = model.predict([noise(0), noise(1, 64, 97)], 0.0, size="native", batch_size=2, on_error="return")
    assert isinstance(first, Detections)
    assert isinstance(second, ImageError)
    assert "64 x 128 pixels" in str(second)


def test_a_hostile_divisor_allocates_nothing() -> None:
    model = eager_detector()
    model.config = replace(model.config, preprocess=replace(model.config.preprocess, size_divisor=99_999))
    with pytest.raises(ImageError, match="99999 x 99999"):
        model.predict(noise(0))


def test_a_large_jpeg_gives_its_boxes_in_pixels_of_the_file(
    model: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smooth = Image.fromarray(noise(0, 5, 7)).resize((1101, 733), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "a.jpg", quality=95)
    (whole,) = model.predict(tmp_path / "a.jpg", 0.0)
    monkeypatch.setattr(reading, "REDUCED_ABOVE", 100_000)
    (reduced,) = model.predict(tmp_path / "a.jpg", 0.0, max_pixels=100_000)
    assert reduced.image_size == whole.image_size == (733, 1101)
    torch.testing.assert_close(reduced.scores, whole.scores, atol=0.01, rtol=0)
    torch.testing.assert_close(reduced.boxes_xyxy, whole.boxes_xyxy, atol=5, rtol=0)
    assert reduced.plot().size == (552, 368), "a quarter, which is small and enlarged twice"
    assert model.predict(tmp_path / "a.jpg", 0.0, size="native", on_error="return", max_pixels=100_000)[0].args


# --- threads and modes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_threads_get_the_same_answers_and_leave_the_mode_as_it_was(training: bool) -> None:
    model = eager_detector()
    pictures = [noise(seed) for seed in range(8)]
    expected = model.predict(pictures, 0.0)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train(training)
    answers: dict[int, list[Detections]] = {}
    together = threading.Barrier(4)

    def work(number: int) -> None:
        together.wait(60)
        answers[number] = [model.predict(picture, 0.0)[0] for picture in pictures[number:] + pictures[:number]]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for number in range(4):
        for found, wanted in zip(answers[number], expected[number:] + expected[:number], strict=True):
            torch.testing.assert_close(found.scores, wanted.scores)
    assert all(module.training is training for module in model.modules())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers()), "running statistics"


def test_each_part_keeps_its_own_mode_also_after_an_error(model: Detector, tmp_path: Path) -> None:
    model.train()
    model.backbone.eval()
    before = [module.training for module in model.modules()]
    model.predict(noise(0))
    with pytest.raises(ImageError):
        model.predict(tmp_path / "absent.png")
    assert [module.training for module in model.modules()] == before
    model.eval()


def test_a_model_that_has_predicted_is_copied_and_pickled(model: Detector) -> None:
    (wanted,) = model.predict(noise(0), 0.0)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert same(twin.predict(noise(0), 0.0)[0], wanted)
