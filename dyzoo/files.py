"""Writing files so that a reader, or the next run after a crash, finds the old content or the new, nothing between."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it is flushed to disk and renamed over `path`.

    On an exception (a full disk, Ctrl-C) the half-written file is removed and `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")  # one name, so that what a killed process left is written over
    aside.unlink(missing_ok=True)
    aside.touch()
    mode = aside.stat().st_mode
    try:
        yield aside
        aside.chmod(mode)  # the user's default again: safetensors makes files that nobody else can read
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with `replacing`."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")


def sweep(folder: Path) -> None:
    """Remove what processes that were killed while they wrote into `folder` with `replacing` have left.

    Nobody else may be writing there.
    """
    for unfinished in Path(folder).glob(".*.part"):
        if unfinished.is_file():
            unfinished.unlink(missing_ok=True)
