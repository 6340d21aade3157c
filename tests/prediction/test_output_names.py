"""Files that are written for pictures have names of their own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dyzoo.prediction.names import OutputNames


def stems(*sources: str, out: str = "out", known: dict[str, str] | None = None) -> list[str]:
    names = OutputNames(Path(out), sources, known or {})
    return [names.stem(source) for source in sources]


def test_stems_are_all_different_whatever_the_case() -> None:
    assert stems("a/x.png", "b/X.png", "x.jpg", "x_2.jpg", "out/y.png") == ["x", "X_2", "x_3", "x_2_2", "y_2"]


def test_a_stem_stays_that_of_its_source() -> None:
    names = OutputNames(Path("out"), [], {"b/x.png": "x"})
    assert [names.stem(source) for source in ("a/x.png", "b/x.png", "a/x.png")] == ["x_2", "x", "x_2"]


def test_frames_lie_in_a_folder_that_is_no_other() -> None:
    names = OutputNames(Path("out"), ["a/film.mp4", "film.png", "labels.mp4"], {})
    assert names.stem("a/film.mp4", 7) == "film/000007"
    assert names.stem("film.png") == "film_2"
    assert names.stem("labels.mp4", 0) == "labels_2/000000"


def test_a_folder_with_pictures_to_read_gets_no_frames(tmp_path: Path) -> None:
    (tmp_path / "film").mkdir()
    source = str(tmp_path / "film" / "000000.png")
    names = OutputNames(tmp_path, [source, "film.mp4"], {})
    assert names.stem("film.mp4", 0) == "film_2/000000"


def test_the_longest_names_keep_their_pictures_apart() -> None:
    found = stems(*("a/" + "ü" * 125 + suffix for suffix in ("x.png", "y.png", "z")))
    assert len(set(found)) == 3
    assert all(len(os.fsencode(f"{stem}.png")) <= 255 for stem in found)


ODD: dict[str, str] = {
    "https://example.org/a/cell.jpg?size=large#part": "cell",
    "https://example.org/": "example",
    "rtsp://host/..": "image",
    "archive.zip/../../up.png": "up",
    "..": "image",
    "": "image",
    "nul\0.png": "nul_",
}


@pytest.mark.parametrize(("source", "stem"), ODD.items(), ids=range(len(ODD)))
def test_sources_of_any_kind_have_a_plain_name(source: str, stem: str) -> None:
    assert stems(source) == [stem]
