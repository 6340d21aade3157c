"""The option --threshold: one for all, by class, or from the file beside a report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import typer

from dyzoo.cli.thresholds import parse_thresholds

LABELS = ("cat", "dog", "a=b")


@pytest.fixture
def report(tmp_path: Path) -> str:
    path = tmp_path / "thresholds.json"
    path.write_text(json.dumps({"threshold": 0.4, "per_class": {"cat": 0.15, "dog": None, "horse": 0.9}}))
    return str(path)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (None, 0.3),
        (["0.5"], 0.5),
        (["1e-1"], 0.1),
        (["dog=0.2"], {"cat": 0.3, "dog": 0.2, "a=b": 0.3}),
        (["dog=0.2", "0.6", "a=b=1"], {"cat": 0.6, "dog": 0.2, "a=b": 1.0}),
        (["FILE"], {"cat": 0.15, "dog": 0.4, "a=b": 0.4}),
        (["cat=0.7", "FILE", "0.5"], {"cat": 0.7, "dog": 0.5, "a=b": 0.5}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_thresholds_are_those_of_each_class(
    report: str, texts: Sequence[str] | None, expected: object, capsys: pytest.CaptureFixture[str]
) -> None:
    given = None if texts is None else [report if text == "FILE" else text for text in texts]
    assert parse_thresholds(given).for_classes(LABELS) == expected
    assert ("thresholds of horse are passed over" in capsys.readouterr().err) == ("FILE" in (texts or ()))


@pytest.mark.parametrize("text", ["7", "-0.1", "nan", "cat=2", "cat=", "=0.5", "cat", "cat=nan"])
def test_what_is_no_threshold_is_one_line(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no score from 0 to 1, no NAME=X"):
        parse_thresholds([text])


def test_a_class_that_the_model_does_not_know_is_named() -> None:
    with pytest.raises(typer.BadParameter, match="knows no class 'horse', but cat, dog, a=b"):
        parse_thresholds(["horse=0.5"]).for_classes(LABELS)


FILES = {
    "text": "x",
    "list": "[]",
    "no classes": '{"threshold": 0.5}',
    "classes are a list": '{"threshold": 0.5, "per_class": [1]}',
    "no number": '{"threshold": 0.5, "per_class": {"cat": "much"}}',
    "too much": '{"threshold": 5, "per_class": {}}',
    "true": '{"threshold": true, "per_class": {}}',
    "not a number": '{"threshold": 0.5, "per_class": {"cat": NaN}}',
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_a_file_of_something_else_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(typer.BadParameter, match=r"a\.json holds no thresholds, expected thresholds\.json beside"):
        parse_thresholds([str(path)])


def test_a_file_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"gone\.json"):
        parse_thresholds([str(tmp_path / "gone.json")])
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(IsADirectoryError):
        parse_thresholds([str(tmp_path / "folder.json")])
