"""Opening and writing files with care: what is read is a regular file, and a reader, or the next run after a crash,
finds the old content or the new, nothing between."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from dyzoo.errors import DyzooError

_MOST_LINKS = 40  # as Linux follows before it says that they go round in a circle
_LONGEST_NAME = 120  # bytes that a name beside it may have; 255 is the most, 143 on encrypted file systems


def open_regular(path: str | Path) -> BinaryIO:
    """Open a file for reading that is a file: a FIFO would wait for ever, a device has no end and may act on it.

    Raises:
        OSError: it cannot be opened, or is something else.
    """
    check_regular(path)
    # Asked again of what was opened, which another process may have put in its place, and without waiting for a FIFO.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        _refuse_irregular(os.fstat(descriptor).st_mode, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def check_regular(path: str | Path) -> int:
    """Size in bytes of a regular file, or of the one that symlinks lead to; nothing is opened.

    Raises:
        OSError: it is not there, or is something else.
    """
    found = os.stat(path)  # noqa: PTH116 (a Path loses the name as it was given)
    _refuse_irregular(found.st_mode, path)
    return found.st_size


def read_regular(path: str | Path, most_bytes: int) -> bytes:
    """Content of a regular file; nothing else is opened, and no more is read than may be.

    Raises:
        OSError: it cannot be opened, is something else, or longer.
    """
    size = check_regular(path)
    if not size:  # the files that the system makes up, as in /proc, claim so too, and reading one may never end
        return b""
    if size <= most_bytes:
        with open_regular(path) as file:
            content = file.read(most_bytes + 1)
        if len(content) <= most_bytes:
            return content
        size = len(content)
    raise OSError(errno.EFBIG, f"too large: {size} bytes, expected at most {most_bytes}", str(path))


@contextmanager
def replacing(path: Path, flush: bool = True) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it is flushed to disk and renamed over `path`.

    On an exception (a full disk, Ctrl-C) the half-written file is removed and `path` stays as it was. What a symbolic
    link points to is replaced, not the link. A device, a FIFO or a socket is not replaced: when all is written, it is
    copied there.

    Args:
        path: the file.
        flush: leave it out for many small files, which then are whole after a kill, but maybe not after a power cut.

    Raises:
        OSError: `path` is a folder, cannot be written, or its links go round in a circle. It names `path`.
    """
    path = Path(path)
    target = _followed(path)
    with _naming(path):
        existing = target.stat().st_mode if os.path.lexists(target) else None
        if existing is not None and stat.S_ISDIR(existing):
            raise OSError(errno.EISDIR, "is a folder, expected a file to write to", str(path))
    if existing is not None and (not stat.S_ISREG(existing) or _is_descriptor(target)):
        with tempfile.TemporaryDirectory(prefix="dyzoo_") as folder:
            aside = Path(folder) / "written"
            with _naming(path, aside):
                aside.touch()
                yield aside
                _copy_into(aside, target)
        return
    if target == path:
        path.parent.mkdir(parents=True, exist_ok=True)
    elif not target.parent.is_dir():
        raise OSError(errno.ENOENT, f"is a link to {target}, whose folder does not exist", str(path))
    aside = _aside(target)  # one name, so that what a killed process left is written over
    with _naming(path, aside):
        aside.unlink(missing_ok=True)
        aside.touch()
        mode = aside.stat().st_mode
        try:
            yield aside
            aside.chmod(mode)  # the user's default again: safetensors makes files that nobody else can read
            if flush:
                with aside.open("rb") as written:
                    os.fsync(written.fileno())
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with `replacing`. Half a surrogate pair, which UTF-8 cannot hold, is spelt out as in JSON."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")


def check_is_new(folder: Path, error: type[DyzooError]) -> None:
    """Raise that error unless the folder is absent or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise error(f"{folder} is {'not empty' if folder.is_dir() else 'a file'}, expected a new or empty folder")


@contextmanager
def folder_aside(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`; on success it is renamed to `path`, on an exception it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    if aside.exists():  # what a killed process left
        shutil.rmtree(aside)
    try:
        aside.mkdir()
        yield aside
        if hasattr(os, "sync"):
            os.sync()  # once for all files
        aside.replace(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what processes that were killed while they wrote into `folder` with `replacing` have left.

    Nobody else may be writing there.
    """
    for unfinished in Path(folder).glob(".*.part"):
        if unfinished.is_file():
            unfinished.unlink(missing_ok=True)


def _refuse_irregular(mode: int, path: str | Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "a folder, expected a file on a disk", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "no regular file, expected a file on a disk", str(path))


def _followed(path: Path) -> Path:
    """The file that symbolic links lead to, which need not exist, or the open descriptor (`/dev/stdout`)."""
    target = path
    for _ in range(_MOST_LINKS):
        with _naming(path):
            if _is_descriptor(target) or not target.is_symlink():
                return target
            target = target.parent / target.readlink()
    raise OSError(errno.ELOOP, "is a symbolic link that leads in a circle", str(path))


def _is_descriptor(path: Path) -> bool:
    """Whether this stands for a file that this process has open: it is a link, but not to a name."""
    return path.name.isdecimal() and os.path.realpath(path.parent) in (f"/proc/{os.getpid()}/fd", "/dev/fd")


def _copy_into(source: Path, target: Path) -> None:
    """Write to a device, a FIFO, a socket or an open file."""
    # An open file has its own place to go on from, which a second opening of it would not share.
    descriptor = os.dup(int(target.name)) if _is_descriptor(target) else os.open(target, os.O_WRONLY)
    with source.open("rb") as written, os.fdopen(descriptor, "wb") as opened:
        shutil.copyfileobj(written, opened)


def _aside(path: Path) -> Path:
    name = path.name
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    return path.with_name(f".{name}.part")


@contextmanager
def _naming(path: Path, aside: Path | None = None) -> Iterator[None]:
    """Let errors of the operating system name the file that the user named, not the one beside it or none."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(aside), aside):
            error.filename = str(path)
            error.filename2 = None
        raise


def sha256(path: Path) -> str:
    """Hex digest of a file's content, read in pieces."""
    return _digest(path, hashlib.sha256())


def git_hash(path: Path) -> str:
    """git's name of a file's content."""
    return _digest(path, hashlib.sha1(b"blob %d\0" % check_regular(path)))


def _digest(path: Path, digest: hashlib._Hash) -> str:
    with open_regular(path) as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
