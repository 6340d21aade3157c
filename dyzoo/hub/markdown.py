"""Words of strangers as parts of a Markdown text: they stay words."""

from __future__ import annotations

import re


def one_line(text: str) -> str:
    """Text without line breaks, so that nothing ends a block of metadata."""
    return " ".join(text.split())


def plain(text: str) -> str:
    """One line without Markdown's and HTML's meaning: labels and folders are named by anybody."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", one_line(text))


def shell_argument(text: str) -> str:
    """One word of a command."""
    return text if re.fullmatch(r"[\w./-]+", text) else "'" + one_line(text).replace("'", "'\\''") + "'"
