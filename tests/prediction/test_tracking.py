"""Objects keep their ids through a film, and no further."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from dyzoo.errors import DyzooError, ImageError
from dyzoo.prediction import predict_to_folder, track
from dyzoo.prediction.tracking import least_scores
from tests.prediction.stub_model import write_pictures

pytest.importorskip("trackers", reason="trackers is not installed")
squares = pytest.importorskip("tests.prediction.squares", reason="PyAV is not installed")


def answers(*sources: Path, threshold: float = 0.1) -> Any:
    return squares.SquareModel().predict(list(sources), on_error="return", stream=True, threshold=threshold)


def ids(found: Any) -> dict[str, int]:
    return dict(zip(found.class_names, found.track_ids.tolist(), strict=True))


def test_an_object_keeps_its_id_and_others_have_others(tmp_path: Path) -> None:
    first, *rest = track(answers(squares.write_squares(tmp_path / "a.mp4")))
    assert ids(first) == {"cat": -1, "../dog": -1}, "which a single frame does not make"
    assert [ids(found) for found in rest] == [{"cat": 1, "../dog": 2}] * 9


def test_ids_begin_anew_with_each_film_and_stills_have_none(tmp_path: Path) -> None:
    films = [squares.write_squares(tmp_path / name, 4) for name in ("a.mp4", "b.mp4")]
    still, gone = *write_pictures(tmp_path, "s.png"), tmp_path / "gone.png"
    found = list(track(answers(films[0], still, gone, films[1], films[1])))
    assert (found[4].track_ids, isinstance(found[5], ImageError)) == (None, True)
    for film in (found[:4], found[6:10], found[10:]):
        assert [ids(each)["cat"] for each in film] == [-1, 1, 1, 1]


def test_a_low_score_keeps_a_track_going_and_is_not_shown(tmp_path: Path) -> None:
    film = squares.write_squares(tmp_path / "a.mp4", 42, (96, 160), dim=range(4, 38))
    found = [ids(each) for each in track(answers(film), threshold=0.3)]
    assert [each.get("cat") for each in found] == [-1, 1, 1, 1, *[None] * 34, *[1] * 4]
    blind = [ids(each).get("cat") for each in track(answers(film, threshold=0.3), threshold=0.3)]
    assert blind[-1] == 3, "without it the track is lost"


def test_each_class_begins_tracks_at_its_own_threshold(tmp_path: Path) -> None:
    film = squares.write_squares(tmp_path / "a.mp4", 4)
    found = list(track(answers(film), {"cat": 0.95, "../dog": 0.5}))
    assert [ids(each) for each in found] == [{"../dog": -1}, *[{"../dog": 1}] * 3]


def test_the_detector_is_asked_for_low_scores() -> None:
    assert (least_scores(["a", "b"], 0.3), least_scores(["a", "b"], 0.05)) == (0.1, 0.05)
    assert least_scores(["a", "b"], {"a": 0.05}) == {"a": pytest.approx(0.05), "b": 0.1}


def test_the_missing_package_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(DyzooError, match=r"pip install 'dyzoo\[track\]'"):
        track([])


def test_a_resumed_job_gives_the_ids_of_one_that_was_not_stopped(tmp_path: Path) -> None:
    class Stopped(squares.SquareModel):  # type: ignore[misc, name-defined]
        def _found(self, picture: Any, settings: dict[str, Any]) -> Any:
            if picture.frame == 6:
                raise KeyboardInterrupt
            return super()._found(picture, settings)

    film, whole, out = squares.write_squares(tmp_path / "a.mp4", dim=[5, 6]), tmp_path / "whole", tmp_path / "out"
    predict_to_folder(squares.SquareModel(), film, whole, track=True)
    with pytest.raises(KeyboardInterrupt):
        predict_to_folder(Stopped(), film, out, track=True)
    predict_to_folder(squares.SquareModel(), film, out, track=True, resume=True)
    for name in ("detections.jsonl", "detections.json", "a.mp4"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    lines = [json.loads(line) for line in (out / "detections.jsonl").read_text().splitlines()]
    assert [[each["track_id"] for each in line["detections"]] for line in lines[:6]] == [
        [-1, -1], *[[1, 2]] * 4, [2],
    ]  # fmt: skip
    with pytest.raises(DyzooError, match="track True, not None"):
        predict_to_folder(squares.SquareModel(), film, out, resume=True)
