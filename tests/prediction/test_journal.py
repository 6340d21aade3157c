"""The journal of a job: lines that stand alone, and are there whole or not at all."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest

from dyzoo.errors import DyzooError
from dyzoo.prediction.journal import Journal

EMPTY: dict[str, Any] = {
    "path": "a", "source": "a", "frame": None, "time_s": None, "height_px": 4, "width_px": 6, "notes": [],
    "detections": [],
}  # fmt: skip
LINE = {**EMPTY, "stem": "a", "picture": None}


def found(source: str, frame: int | None = None) -> dict[str, Any]:
    return {**EMPTY, "path": source, "source": source, "frame": frame}


WRONG = {
    "text": "text",
    "list": "[]",
    "number": "3",
    "nothing": "{}",
    "name": '"path"',
    "deep": "[" * 100_000,
    "source": json.dumps({**LINE, "source": 1}),
    "frame": json.dumps({**LINE, "frame": "first", "stem": "a/1"}),
    "no frame of a film": json.dumps({**LINE, "frame": 1}),
    "stem is no text": json.dumps({**LINE, "stem": 3}),
    "stem above": json.dumps({**LINE, "stem": ".."}),
    "stem outside": json.dumps({**LINE, "frame": 1, "stem": "../../up"}),
    "stem from the root": json.dumps({**LINE, "frame": 1, "stem": "/etc/up"}),
    "picture": json.dumps({**LINE, "picture": ["a.png"]}),
}


@pytest.mark.parametrize("line", WRONG.values(), ids=WRONG)
def test_a_line_that_is_none_of_ours_is_named_and_nothing_is_lost(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(LINE) + "\n" + line + "\n")
    before = path.read_bytes()
    with pytest.raises(DyzooError, match=r"a\.jsonl line 2 is not of `dyzoo predict`"):
        Journal(path, {}, resume=True)
    assert path.read_bytes() == before


def test_a_line_without_a_detection_in_it_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({**LINE, "detections": [{"label": 5}]}) + "\n")
    with Journal(path, {}, resume=True) as journal:
        (row,) = journal.rows()
        with pytest.raises(DyzooError, match=r"a\.jsonl line 1 .*its detections are none"):
            journal.detections(row, ["cat"])


def test_a_line_that_finds_no_room_is_taken_back(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "a.jsonl"
    with Journal(path, {}, resume=False) as journal:
        journal.add(found("a"), "a", None)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            with pytest.raises(OSError, match="too large") as caught:
                journal.add(found("b" * 5000), "b", None)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        journal.add(found("c"), "c", None)
    assert caught.value.filename == str(path)
    assert [json.loads(line)["path"] for line in path.read_text().splitlines()] == ["a", "c"]


def test_a_journal_without_lines_is_not_left(tmp_path: Path) -> None:
    with Journal(tmp_path / "a.jsonl", {}, resume=False):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_film_is_done_as_far_as_its_last_frame(tmp_path: Path) -> None:
    with Journal(tmp_path / "a.jsonl", {}, resume=False) as journal:
        journal.add(found("film.mp4", 0), "film/000000", None)
        journal.add(found("film.mp4", 4), "film/000004", None)
        journal.add(found("a.png"), "a", None)
    with Journal(tmp_path / "a.jsonl", {}, resume=True) as journal:
        assert journal.done.stems == {"film.mp4": "film", "a.png": "a"}
        assert (journal.done.has("a.png"), journal.done.has("b.png"), journal.done.has("film.mp4")) == (
            True,
            False,
            False,
        )
        assert [journal.done.has("film.mp4", frame) for frame in (0, 4, 5)] == [True, True, False]


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ({"threshold": 0.3}, {"threshold": 0.5}, "threshold 0.3, not 0.5"),
        ({"threshold": 0.3, "iou": 0.4}, {"threshold": 0.3}, "iou 0.4, not None"),
        ({"threshold": 0.3}, {"threshold": 0.3, "tiles": "auto"}, "tiles None, not 'auto'"),
        ({"threshold": {"cat": 0.1}}, {"threshold": {"cat": 0.2}}, "threshold {'cat': 0.1}, not {'cat': 0.2}"),
    ],
    ids=["other", "no longer given", "new", "by class"],
)
def test_resuming_wants_the_same_settings(
    tmp_path: Path, before: dict[str, Any], now: dict[str, Any], words: str
) -> None:
    with Journal(tmp_path / "a.jsonl", before, resume=False) as journal:
        journal.add(found("a"), "a", None)
    with pytest.raises(DyzooError, match=f"was made with {words}: choose another --out"):
        Journal(tmp_path / "a.jsonl", now, resume=True)
    with Journal(tmp_path / "a.jsonl", before, resume=True) as journal:
        assert journal.count == 1
