"""Words of strangers, class and file names, made fit to be shown."""

from __future__ import annotations

from collections.abc import Mapping

from dyzoo.text import printable

_LONGEST = 400


def plain(text: str, longest: int = _LONGEST) -> str:
    """One line that can be printed: whatever could steer a terminal, a browser or the direction of writing is spelt out
    (a line break becomes `\\n`), and of a text without end the middle is left out."""
    text = printable(text[: 4 * longest])
    return text if len(text) <= longest else f"{text[: longest - longest // 3 - 1]}…{text[-(longest // 3) :]}"


def counted(counts: Mapping[str, int]) -> str:
    """Names with how many of each, the most frequent first: "3 cat, 1 dog"; the name alone if there is one."""
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))


def number(value: float | None, decimals: int = 3) -> str:
    """A share or metric; a dash where there is none (None, not a number)."""
    return "-" if value is None or value != value else f"{value:.{decimals}f}"
