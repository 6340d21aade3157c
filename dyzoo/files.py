"""Files: reading only what is one, and writing so that a reader, or the next run after a crash, finds the old content
or the new, nothing between."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_regular(path: Path) -> int:
    """Size in bytes of a regular file, or of the one that symlinks lead to; a pipe or a device is none.

    Raises:
        OSError: it is none, or not there.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return status.st_size


def read_regular(path: Path, max_bytes: int) -> bytes:
    """Content of a regular file; nothing else is opened, and no more is read than may be.

    Raises:
        OSError: it is none, or longer.
    """
    size = check_regular(path)
    if not size:  # the files of /proc claim so too, and reading one may wait for ever
        return b""
    if size <= max_bytes:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
        if len(content) <= max_bytes:
            return content
    raise OSError(errno.EFBIG, f"it has more than {max_bytes} bytes", str(path))


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
