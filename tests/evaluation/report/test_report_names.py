from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dyzoo.evaluation.plots import save_precision_recall
from dyzoo.evaluation.report.text import counted, number, plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Wächter 猫 é", "Wächter 猫 é"),
        ("a\x00b\r\nc\x1b[2J", r"a\x00b\r\nc\x1b[2J"),
        ("evil\u202egpj.exe", r"evil\u202egpj.exe"),
        ("\udcff", r"\udcff"),
    ],
)
def test_plain_text_is_one_line_that_can_be_printed(text: str, shown: str) -> None:
    assert plain(text) == shown
    plain(text).encode()


def test_plain_text_has_an_end() -> None:
    assert plain("a" * 50 + "b" * 1_000_000, longest=30) == "a" * 19 + "…" + "b" * 10
    assert len(plain("\x00" * 1000, longest=30)) == 30


def test_numbers_and_counts() -> None:
    assert (number(0.12345), number(None), number(float("nan"))) == ("0.123", "-", "-")
    assert counted({"dog": 1, "cat": 3}) == "3 cat, 1 dog"
    assert counted({"dog": 4}) == "dog"


def test_class_names_are_no_formulas(tmp_path: Path) -> None:
    precision = np.full((2, 101, 2), 0.5)
    save_precision_recall(
        np.linspace(0, 1, 101), precision, (0.5, 0.75), [r"$\nothing{$", "_hidden"], tmp_path / "a.png"
    )
    save_precision_recall(np.linspace(0, 1, 101), precision, (0.5, 0.75), ["x", ""], tmp_path / "b.png")
    with Image.open(tmp_path / "a.png") as named, Image.open(tmp_path / "b.png") as short:
        assert named.size == short.size
        assert named.tobytes() != short.tobytes()
