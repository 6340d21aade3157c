"""Predicting from every kind of source: read ahead or not, in batches, by class, with what the network refuses."""

from __future__ import annotations

import io
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dyzoo.errors import ImageError
from dyzoo.images.detections import Detections
from dyzoo.model.detector import Detector
from tests.images.sources.films import write_film
from tests.model.narrow_detectors import eager_detector


@pytest.fixture(scope="module")
def model() -> Detector:
    return eager_detector()


def noise(seed: int, height: int = 64, width: int = 96) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(seed: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(noise(seed)).save(content, "PNG")
    return content.getvalue()


def same(a: Any, b: Any) -> bool:
    if isinstance(a, ImageError) or isinstance(b, ImageError):
        return str(a) == str(b)
    return (
        torch.equal(a.boxes_xyxy, b.boxes_xyxy)
        and torch.equal(a.scores, b.scores)
        and torch.equal(a.labels, b.labels)
        and (a.source, a.frame, a.time_s, a.path, a.image_size) == (b.source, b.frame, b.time_s, b.path, b.image_size)
    )


@pytest.fixture
def everything(tmp_path: Path) -> list[Any]:
    """A list of every kind, with bad ones between; 1 + 4 + 2 + 1 + 1 + 2 + 1 + 1 + 6 pictures."""
    (tmp_path / "folder").mkdir()
    for number, size in enumerate([(64, 96), (96, 64), (64, 96), (40, 96)]):
        Image.fromarray(noise(number, *size)).save(tmp_path / "folder" / f"{number}.png")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        made.writestr("1.png", png(7))
        made.writestr("2.png", b"bad")
    (tmp_path / "list.txt").write_text("folder/0.png\n")
    film = write_film(tmp_path / "a.mp4", 6)
    batch = torch.from_numpy(np.stack([noise(8), noise(9)])).permute(0, 3, 1, 2)
    return [png(1), tmp_path / "folder", tmp_path / "a.zip", tmp_path / "list.txt", 987654, batch, None, noise(5), film]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_answers_are_the_same_to_the_bit_however_they_are_read(
    model: Detector, everything: list[Any], batch_size: int
) -> None:
    settings: dict[str, Any] = {"batch_size": batch_size, "on_error": "return", "stream": True}
    expected = list(model.predict(everything, 0.0, workers=0, **settings))
    assert len(expected) == 19
    assert [number for number, each in enumerate(expected) if isinstance(each, ImageError)] == [6, 8, 11]
    for workers in (None, 1, 3):
        answers = list(model.predict(everything, 0.0, workers=workers, **settings))
        assert all(same(a, b) for a, b in zip(answers, expected, strict=True)), workers
    answers = list(model.predict(iter(everything), 0.0, **settings))
    if batch_size == 1:
        assert all(same(a, b) for a, b in zip(answers, expected, strict=True)), "asked one by one"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dyzoo")]


def test_the_picture_s_neighbours_in_a_batch_do_not_pad_it(model: Detector) -> None:
    pictures = [noise(0), noise(1, 96, 64), noise(2), noise(3, 64, 90), noise(4, 96, 64)]
    alone = [model.predict(picture, 0.0)[0] for picture in pictures]
    for together, expected in zip(model.predict(pictures, 0.0, batch_size=3), alone, strict=True):
        torch.testing.assert_close(together.scores, expected.scores, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together.boxes_xyxy, expected.boxes_xyxy, atol=1e-2, rtol=1e-4)


def test_frames_say_where_they_are_and_a_stride_passes_others_over(model: Detector, tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mp4", 10)
    found = model.predict(film, 0.0, frame_stride=4, keep_pictures=True)
    assert [(each.source, each.frame, each.path) for each in found] == [(str(film), n, None) for n in (0, 4, 8)]
    assert [each.time_s for each in found] == pytest.approx([0.0, 0.4, 0.8], abs=1e-3)
    for each in found:
        assert each.picture is not None
        assert each.picture.image.size == (64, 48)
        assert each.plot().width >= 64
    with pytest.raises(ValueError, match="keep_pictures"):
        model.predict(film)[0].plot()


def test_pictures_are_kept_only_where_they_are_wanted(model: Detector) -> None:
    (left,), (kept,) = model.predict(noise(0)), model.predict(noise(0), keep_pictures=True)
    assert left.picture is None
    assert kept.picture is not None
    np.testing.assert_array_equal(np.asarray(kept.picture.image), noise(0))


def test_classes_and_their_thresholds_choose_among_the_detections(model: Detector) -> None:
    (everything,) = model.predict(noise(0), 0.0)
    red, blue = (everything[everything.labels == label] for label in (0, 1))
    assert len(red)
    assert len(blue)
    (only,) = model.predict(noise(0), 0.0, classes=["blue"])
    assert torch.equal(only.scores, blue.scores)
    middle = float(red.scores.median())
    (chosen,) = model.predict(noise(0), {"red": middle, "blue": 1})
    assert torch.equal(chosen.scores, red.filter(middle).scores)
    assert chosen.names == everything.names


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"classes": ["rad"]}, "no class 'rad', did you mean 'red'?"),
        ({"threshold": {"blu": 0.5}}, "no class 'blu', did you mean 'blue'?"),
        ({"workers": -1}, "workers is -1, expected a number of at least 0"),
        ({"workers": True}, "workers is True, expected a number of at least 0"),
        ({"frame_stride": 0}, "frame_stride is 0, expected a number of at least 1"),
        ({"frame_stride": 1.5}, "frame_stride is 1.5, expected a number of at least 1"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_wrong_setting_is_said_at_once(model: Detector, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        model.predict([], stream=True, **settings)
    assert said in str(caught.value)


def test_a_stream_that_is_left_leaves_no_thread(model: Detector, tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mp4", 200)
    stream: Any = model.predict([film, tmp_path], stream=True, workers=2)
    assert isinstance(next(stream), Detections)
    assert [thread for thread in threading.enumerate() if thread.name.startswith("dyzoo")]
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dyzoo")]


def test_a_camera_needs_a_stream_of_answers(model: Detector) -> None:
    with pytest.raises(ImageError, match=r"camera 0 may never end: predict\(..., stream=True\)"):
        model.predict(0)
    (answer,) = model.predict(987654, stream=True, on_error="return")
    assert "camera 987654 is not there" in str(answer)


def test_an_error_that_is_raised_comes_after_the_pictures_before_it(model: Detector, tmp_path: Path) -> None:
    stream: Iterator[Detections] = model.predict([noise(0), noise(1), tmp_path / "absent.png"], stream=True)
    assert [type(next(stream)), type(next(stream))] == [Detections, Detections]
    with pytest.raises(ImageError, match="absent"):
        next(stream)


# --- forward ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ("a.jpg", "images is a str"),
        (Path("a.jpg"), "images is a PosixPath"),
        (Image.new("RGB", (7, 5)), "images is an Image"),
        (noise(0), "images is a ndarray"),
        ({"image": torch.zeros(3, 8, 8)}, "images is a dict"),
        (None, "images is a NoneType"),
        (7, "images is an int"),
        (["a.jpg"], "image 0 is a str"),
        ([torch.zeros(3, 8, 8), noise(0)], "image 1 is a ndarray"),
        ([torch.zeros(4, 8, 8)], "image 0 is (4, 8, 8), expected (3, H, W)"),
        (torch.zeros(2, 4, 8, 8), "image 0 is (4, 8, 8), expected (3, H, W)"),
        (torch.zeros(2, 1, 8, 8), "image 0 is (1, 8, 8), expected (3, H, W)"),
        (torch.zeros(3, 8, 8), "images is a tensor (3, 8, 8), expected (N, 3, H, W) or a list of (3, H, W)"),
        (torch.zeros(0, 3, 8, 8), "images is empty"),
        ([], "images is empty"),
        ([torch.zeros(3, 8, 8, dtype=torch.int64)], "image 0 is torch.int64, expected uint8"),
    ],
    ids=lambda value: None if isinstance(value, str) and value == "a.jpg" else str(type(value).__name__),
)
def test_the_network_itself_says_what_came_and_what_was_expected(model: Detector, images: Any, said: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        model(images)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    if "expected a" in str(caught.value) and "tensors" in str(caught.value):
        assert "model.predict(...)" in str(caught.value)
