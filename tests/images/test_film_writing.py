"""A film that is written shows its pictures when they were, in its colours, and is there as a whole or not at all."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dyzoo.images import film_writing
from dyzoo.images.film_writing import FilmWriter

av = pytest.importorskip("av", reason="PyAV is not installed")
COLORS = (230, 159, 0), (0, 114, 178), (204, 121, 167)


def stripes(width: int, height: int) -> Image.Image:
    pixels = np.zeros((height, width, 3), np.uint8)
    for part, color in zip(np.array_split(pixels, 3, axis=1), COLORS, strict=True):
        part[:] = color
    return Image.fromarray(pixels)


def write(path: Path, times: Sequence[float | None], size: tuple[int, int] = (96, 64)) -> Path:
    writer = FilmWriter(path)
    for time_s in times:
        writer.add(stripes(*size), time_s)
    writer.finish()
    assert writer.count == len(times)
    return path


def add_all(writer: FilmWriter, pictures: Sequence[Image.Image]) -> None:
    for number, picture in enumerate(pictures):
        writer.add(picture, number / 10)


def read(path: Path) -> tuple[Any, list[Any]]:
    """The stream, and its frames."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return stream, list(container.decode(stream))


RATES = {"10": Fraction(10), "25": Fraction(25), "60/1.001": Fraction(60_000, 1001), "1/2": Fraction(1, 2)}


@pytest.mark.parametrize("rate", RATES.values(), ids=RATES)
def test_a_film_has_the_rate_of_its_times(tmp_path: Path, rate: Fraction) -> None:
    stream, frames = read(write(tmp_path / "a.mp4", [3 + float(number / rate) for number in range(12)]))
    assert (len(frames), stream.average_rate) == (12, rate)
    assert [frame.pts * frame.time_base for frame in frames] == [number / rate for number in range(12)]


def test_a_gap_stays_one_and_a_time_that_is_none_repeats_the_last_step(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.5, None, None, 9.0, 9.4, 2.0, 2.1, 1e9, float("nan")]
    _, frames = read(write(tmp_path / "a.mp4", times))
    steps = np.diff([float(frame.pts * frame.time_base) for frame in frames])
    assert steps.tolist() == pytest.approx([0.1, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.1, 0.1, 0.1])


@pytest.mark.parametrize("codec", film_writing._CODECS)
def test_colours_come_out_of_every_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str) -> None:
    try:
        av.Codec(codec, "w")
    except ValueError:
        pytest.skip("this build of FFmpeg lacks it")
    monkeypatch.setattr(film_writing, "_CODECS", {codec: film_writing._CODECS[codec]})
    stream, frames = read(write(tmp_path / "a.mp4", [0, 0.1, 0.2], (96, 64)))
    assert stream.codec_context.pix_fmt == "yuv420p"
    pixels = np.asarray(frames[2].to_image()).astype(int)
    for x, color in zip((16, 48, 80), COLORS, strict=True):
        assert np.abs(pixels[32, x] - color).max() <= 6


def test_the_best_encoder_that_is_there_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film_writing, "_CODECS", {"none": {}, "mpeg4": film_writing._CODECS["mpeg4"]})
    stream, _ = read(write(tmp_path / "a.mp4", [0]))
    assert stream.codec_context.name == "mpeg4"
    monkeypatch.setattr(film_writing, "_CODECS", {"none": {}})
    with pytest.raises(OSError, match="no encoder"):
        write(tmp_path / "b.mp4", [0])


def test_odd_sides_are_padded_and_other_sizes_fitted(tmp_path: Path) -> None:
    writer = FilmWriter(tmp_path / "a.mp4")
    white = [Image.new("RGB", size, "white") for size in ((61, 41), (30, 41), (200, 10), (61, 41))]
    add_all(writer, white)
    writer.finish()
    _, frames = read(tmp_path / "a.mp4")
    shown = [np.asarray(frame.to_image())[..., 1] > 128 for frame in frames]
    assert [each.shape for each in shown] == [(42, 62)] * 4
    assert [(int(each[20].sum()), int(each[:, 30].sum())) for each in shown] == [
        pytest.approx(sides, abs=2) for sides in ((61, 41), (31, 42), (62, 3), (61, 41))
    ]


def test_a_film_is_there_when_it_is_finished_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "a:b.mp4"
    path.write_text("the old one")
    writer = FilmWriter(path)
    writer.add(stripes(96, 64), 0)
    writer.discard()
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("a:b.mp4", "the old one")]
    assert len(read(write(path, [0, 1]))[1]) == 2
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    noise = np.random.default_rng(0).integers(0, 255, (30, 120, 160, 3)).astype(np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = FilmWriter(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            add_all(writer, [Image.fromarray(noise[number % 30]) for number in range(300)])
        writer.discard()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (caught.value.filename, list(tmp_path.iterdir())) == (str(path), [])


def test_a_last_picture_that_finds_no_room_leaves_nothing(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = FilmWriter(tmp_path / "a.mp4")
    writer.add(stripes(96, 64), 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            writer.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (caught.value.filename, list(tmp_path.iterdir())) == (str(tmp_path / "a.mp4"), [])


def test_what_no_encoder_takes_is_an_error_of_the_file(tmp_path: Path) -> None:
    writer = FilmWriter(tmp_path / "a.mp4")
    with pytest.raises(OSError, match=r"a\.mp4") as caught:
        writer.add(Image.new("RGB", (40_000, 2)), 0)
    writer.discard()
    assert (caught.value.filename, list(tmp_path.iterdir())) == (str(tmp_path / "a.mp4"), [])
