"""Docstrings say the thing itself, with a noun and a verb."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("dyzoo", "kernels", "benchmarks", "docs")
FRAGMENTS = ("of", "what")


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of every string that stands alone as a statement, that is also those below a constant."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(text := node.value.value, str)
        ):
            yield node.lineno, text


def begins_with_a_fragment(text: str) -> bool:
    """Whether the first word leaves the noun to be guessed: "Of every level.", "What it costs."."""
    first, *_ = text.split(maxsplit=1) or [""]
    return first.lower() in FRAGMENTS


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_docstring_begins_with_of_or_what(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}"
        for path in files
        for line, text in docstrings(path.read_text(encoding="utf-8"))
        if begins_with_a_fragment(text)
    ]
    assert not found, "\n".join(found)


def test_fragments_are_found() -> None:
    source = '"""What a file holds."""\nTAPS = 9\n"""\nOf the kernel."""\ndef of():\n    """Offsets."""'
    assert [line for line, text in docstrings(source) if begins_with_a_fragment(text)] == [1, 3]
