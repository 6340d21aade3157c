"""Annotated films hold all frames that were found, whatever stops the job that writes them."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dyzoo.images.film_writing import FilmWriter
from dyzoo.images.sources.base import Pending, Reading, Source
from dyzoo.images.sources.film import Film
from dyzoo.prediction import Job, predict_to_folder
from tests.prediction.stub_model import write_pictures

av = pytest.importorskip("av", reason="PyAV is not installed")
squares = pytest.importorskip("tests.prediction.squares")
films = pytest.importorskip("tests.images.sources.films")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def frames(path: Path) -> tuple[Any, list[np.ndarray]]:
    """The stream, and its pictures."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return stream, [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]


class Stopped(squares.SquareModel):  # type: ignore[misc, name-defined]
    """A detector that is stopped by the user at a frame."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def _found(self, picture: Any, settings: dict[str, Any]) -> Any:
        if picture.frame == self.at:
            raise KeyboardInterrupt
        return super()._found(picture, settings)


def stop(images: Any, out: Path, at: int, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        predict_to_folder(Stopped(at), images, out, **options)


def test_a_film_comes_out_as_a_film_and_a_still_as_a_picture(tmp_path: Path, out: Path) -> None:
    film = squares.write_squares(tmp_path / "a.avi")
    written = predict_to_folder(squares.SquareModel(), [film, *write_pictures(tmp_path, "b.png")], out, formats=[])
    assert (written.failures, written.films) == ([], [out / "a.mp4"])
    assert names(out) == ["a.mp4", "b.png", "detections.jsonl"]
    stream, pictures = frames(out / "a.mp4")
    assert (len(pictures), stream.average_rate, stream.width, stream.height) == (10, 10, 512, 384)
    for row, (color, edge) in {96: ((230, 159, 0), 8 + 9 * 3), 288: ((86, 180, 233), 128 - 24 - 9 * 3)}.items():
        beside = pictures[9][row, 4 * edge - 8 : 4 * edge + 8].astype(int)
        assert np.abs(beside - color).max(axis=1).min() < 40, "the class's own colour, where its object is"


def test_a_stride_divides_the_rate(tmp_path: Path, out: Path) -> None:
    film = squares.write_squares(tmp_path / "a.mp4", 12, rate=30)
    written = predict_to_folder(squares.SquareModel(), film, out, frame_stride=3, crops=True, frames=True)
    assert written.images == 4
    stream, pictures = frames(out / "a.mp4")
    assert (len(pictures), stream.average_rate) == (4, 10)
    assert [name for name in names(out) if "000009" in name] == [
        "a/000009.png", "crops/_._dog/a/000009_2.png", "crops/cat/a/000009_1.png",
    ]  # fmt: skip


@pytest.mark.parametrize("at", [1, 5])
def test_a_stopped_film_is_not_there_and_resumes_without_detecting_twice(tmp_path: Path, out: Path, at: int) -> None:
    film, whole = squares.write_squares(tmp_path / "a.mp4", 8), tmp_path / "whole"
    predict_to_folder(squares.SquareModel(), film, whole)
    out.mkdir()
    (out / "a.mp4").write_text("of another run")
    stop(film, out, at)
    assert names(out) == ["detections.jsonl"]
    model = squares.SquareModel()
    predict_to_folder(model, film, out, resume=True)
    assert [frame for _, frame in model.seen] == [*range(at, 8)]
    assert names(out) == names(whole)
    assert all((out / name).read_bytes() == (whole / name).read_bytes() for name in names(whole))


def test_a_film_of_which_only_the_drawing_is_left_is_drawn(tmp_path: Path, out: Path) -> None:
    done = [squares.write_squares(tmp_path / f"{name}.mp4", 4) for name in "ab"]
    predict_to_folder(squares.SquareModel(), done, tmp_path / "whole")
    predict_to_folder(squares.SquareModel(), done, out, pictures=False)
    assert not list(out.glob("*.mp4"))
    model = squares.SquareModel()
    written = predict_to_folder(model, done, out, resume=True)
    assert (model.seen, written.films) == ([], [out / "a.mp4", out / "b.mp4"])
    assert (out / "b.mp4").read_bytes() == (tmp_path / "whole" / "b.mp4").read_bytes()
    before = (out / "a.mp4").stat().st_mtime_ns
    assert predict_to_folder(model, done, out, resume=True).films == written.films
    assert (out / "a.mp4").stat().st_mtime_ns == before, "a film that is there is left alone"


def test_a_film_that_has_become_another_gives_no_wrong_film(tmp_path: Path, out: Path) -> None:
    film = squares.write_squares(tmp_path / "a.mp4", 6)
    stop(film, out, 3)
    squares.write_squares(film, 6, (96, 160))
    written = predict_to_folder(squares.SquareModel(), film, out, resume=True)
    assert (len(written.failures), written.films, written.images) == (1, [], 6)
    assert "the image is 96 x 160 (H x W), the detections are for 96 x 128" in written.failures[0]
    assert not list(out.glob("*.mp4"))


def test_a_film_that_is_gone_leaves_none(tmp_path: Path, out: Path) -> None:
    film = squares.write_squares(tmp_path / "a.mp4", 6)
    stop(film, out, 3)
    film.unlink()
    written = predict_to_folder(squares.SquareModel(), film, out, resume=True)
    assert (len(written.failures), written.films, names(out)) == (1, [], ["detections.json", "detections.jsonl"])


def test_a_film_that_breaks_off_gives_what_there_is(tmp_path: Path, out: Path) -> None:
    film = squares.write_squares(tmp_path / "a.avi", 12)
    content = film.read_bytes()
    film.write_bytes(content[: content.index(b"movi") + (len(content) - content.index(b"movi")) // 2])
    other = squares.write_squares(tmp_path / "b.mp4", 3)
    written = predict_to_folder(squares.SquareModel(), [film, other], out)
    count = written.images - 3
    assert 0 < count < 12
    assert (len(frames(out / "a.mp4")[1]), len(frames(out / "b.mp4")[1])) == (count, 3)


class Live(Source):
    """A stream that ends."""

    is_many = is_film = True
    source = "rtsp://host/live"

    def __init__(self, film: Path) -> None:
        self.film = film

    def open(self, reading: Reading) -> Iterator[Pending]:
        return Film(self.film, str(self.source)).open(reading)


def test_a_stopped_stream_keeps_what_there_is_and_goes_on_in_a_second_film(tmp_path: Path, out: Path) -> None:
    film = squares.write_squares(tmp_path / "a.mp4", 8)
    stop([Live(film)], out, 5)
    assert names(out) == ["detections.jsonl", "live.mp4"]
    assert len(frames(out / "live.mp4")[1]) == 5
    written = predict_to_folder(squares.SquareModel(), [Live(film)], out, resume=True)
    assert written.films == [out / "live_2.mp4"]
    assert (len(frames(out / "live.mp4")[1]), len(frames(out / "live_2.mp4")[1])) == (5, 3)


def test_a_film_that_cannot_be_written_is_one_line_and_the_rest_comes_out(tmp_path: Path, out: Path) -> None:
    (out / "a.mp4").mkdir(parents=True)
    done = [squares.write_squares(tmp_path / f"{name}.mp4", 4) for name in "ab"]
    written = predict_to_folder(squares.SquareModel(), done, out)
    assert written.failures == [f"{out}/a.mp4 cannot be written: is a folder, expected a file to write to"]
    assert (written.images, written.films) == (8, [out / "b.mp4"])


def test_an_encoder_that_fails_costs_the_film_and_nothing_else(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = FilmWriter.add

    def failing(self: FilmWriter, picture: Any, time_s: float | None) -> None:
        if self.path.name == "a.mp4" and self.count == 2:
            raise OSError(errno.EIO, "Input/output error", str(self.path))
        add(self, picture, time_s)

    monkeypatch.setattr(FilmWriter, "add", failing)
    done = [squares.write_squares(tmp_path / f"{name}.mp4", 4) for name in "ab"]
    written = predict_to_folder(squares.SquareModel(), done, out)
    assert written.failures == [f"{out}/a.mp4 cannot be written: Input/output error"]
    assert (written.images, names(out)) == (8, ["b.mp4", "detections.json", "detections.jsonl"])


@pytest.mark.parametrize("door", ["add", "finish"])
def test_a_full_disk_ends_the_job_and_resuming_goes_on(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, door: str
) -> None:
    film = squares.write_squares(tmp_path / "a.mp4", 4)

    def full(self: FilmWriter, *_: Any) -> None:
        self.discard()
        raise OSError(errno.ENOSPC, "No space left on device", str(self.path))

    with monkeypatch.context() as during:
        during.setattr(FilmWriter, door, full)
        with pytest.raises(OSError, match="No space left"):
            predict_to_folder(squares.SquareModel(), film, out)
    assert names(out) == (["detections.jsonl"] if door == "finish" else [])
    assert predict_to_folder(squares.SquareModel(), film, out, resume=True).images == 4
    assert len(frames(out / "a.mp4")[1]) == 4


def test_frames_of_other_sizes_go_into_the_same_film(tmp_path: Path, out: Path) -> None:
    class Changing(squares.SquareModel):  # type: ignore[misc, name-defined]
        def _answers(self, images: Any, settings: dict[str, Any]) -> Any:
            for source in images:
                for part in (tmp_path / "a.mp4", tmp_path / "b.mp4"):
                    for pending in Film(part, source.source).open(Reading()):
                        yield self._found(pending(), settings)

    squares.write_squares(tmp_path / "a.mp4", 3)
    squares.write_squares(tmp_path / "b.mp4", 5, (128, 96))  # of which frames 3 and 4 are new
    written = predict_to_folder(Changing(), [tmp_path / "a.mp4"], out)
    assert (written.images, written.failures) == (5, [])
    assert [picture.shape for picture in frames(out / "a.mp4")[1]] == [(384, 512, 3)] * 5


def test_the_journal_names_no_picture_for_a_frame_without_one(tmp_path: Path, out: Path) -> None:
    film = squares.write_squares(tmp_path / "a.mp4", 2)
    predict_to_folder(squares.SquareModel(), film, out)
    lines = [json.loads(line) for line in (out / "detections.jsonl").read_text().splitlines()]
    assert [(line["stem"], line["picture"]) for line in lines] == [("a/000000", None), ("a/000001", None)]


def test_the_bar_knows_how_many_frames_there_are(tmp_path: Path, out: Path) -> None:
    film = squares.write_squares(tmp_path / "a.mp4", 11)
    images = [film, *write_pictures(tmp_path, "b.png")]
    with Job(squares.SquareModel(), images, out, frame_stride=2) as job:
        assert (job.total, job.expected()) == (None, 7)
    stop(film, out, 4, frame_stride=2)
    with Job(squares.SquareModel(), images, out, frame_stride=2, resume=True) as job:
        assert job.expected() == 5
        assert len(list(job.run())) == 5
    with Job(squares.SquareModel(), [film, Live(film)], out) as job:
        assert job.expected() is None
