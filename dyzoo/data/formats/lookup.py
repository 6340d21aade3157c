"""Finding the file that a label file of a stranger means, without ever leaving the dataset folder."""

from __future__ import annotations

import errno
import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path, PureWindowsPath
from urllib.parse import unquote, urlsplit

from dyzoo import files
from dyzoo.errors import DatasetError

SEPARATORS = '/\\:*?"<>|'
"""Characters that some system takes for the end of a folder or a drive, or for a pattern of names."""

_MOST_BYTES = 1 << 28  # a file of labels or names: some five million boxes


def is_regular(path: Path) -> bool:
    """Whether this is a file, or a link to one, that can be read without waiting; whatever the path, nothing is raised.

    False for a FIFO, a device and a socket.
    """
    return os.path.isfile(path)  # noqa: PTH113 (Path.is_file raises for names that the file system does not take)


def is_there(path: Path) -> bool:
    """Whether there is anything of that name, behind a link too; whatever the path, nothing is raised."""
    return os.path.exists(path)  # noqa: PTH110


def is_folder(path: Path) -> bool:
    """Whether this is a folder, or a link to one; whatever the path, nothing is raised."""
    return os.path.isdir(path)  # noqa: PTH112


def read_regular(path: Path, most_bytes: int = _MOST_BYTES) -> bytes:
    """The bytes of a file on a disk. What is none, such as a FIFO or a device, is not even opened.

    Raises:
        FileNotFoundError: there is no such file.
        DatasetError: it is no regular file, has more than `most_bytes`, or cannot be read.
    """
    try:
        return files.read_regular(path, most_bytes)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: no path has such characters
        raise FileNotFoundError(errno.ENOENT, "No such file", str(path)) from error
    except OSError as error:
        unfit = error.errno in (errno.EINVAL, errno.EFBIG, errno.EISDIR)  # the faults that `files` finds
        raise DatasetError(f"{path} {'is ' if unfit else 'cannot be read: '}{error.strerror or error}") from None


def read_text_file(path: Path, most_bytes: int = _MOST_BYTES) -> str:
    """The UTF-8 text of a file as `read_regular` reads it, without a mark of the byte order.

    Raises:
        FileNotFoundError: there is no such file.
        DatasetError: as `read_regular`, or it is not text.
    """
    try:
        return read_regular(path, most_bytes).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DatasetError(f"{path} is not a text file") from None


def is_unwritable(character: str) -> bool:
    """Whether this is a line break, a control character or half a character, which no list of names can hold."""
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def is_plain_name(name: str, most_bytes: int) -> bool:
    """Whether a file may be called so on any system, without being hidden or leading to another folder."""
    return (
        name.strip() == name != ""
        and not name.startswith(".")
        and not any(each in SEPARATORS or is_unwritable(each) for each in name)
        and len(name.encode()) <= most_bytes
    )


def read_own_text(path: Path, homes: Sequence[Path], most_bytes: int = _MOST_BYTES) -> str:
    """`read_text_file` for what may be shown, such as class names: a link must not lead out of `homes`.

    Raises:
        FileNotFoundError: there is no such file.
        DatasetError: as `read_text_file`, or the file belongs to somebody else.
    """
    if is_there(path) and not resolves_below(path, homes):
        raise DatasetError(f"{path} is a link out of {homes[-1]}: put a copy of the file in its place")
    return read_text_file(path, most_bytes)


def is_made_up(folder: Path) -> bool:
    """Whether the system makes this folder up: there the links of every process lead on to what it has open."""
    return Path(os.path.realpath(folder)).parts[1:2] in (("proc",), ("sys",))


def leads_outside(name: str) -> bool:
    """Whether a file name, with slashes of either kind, could leave the folder it is joined to."""
    path = PureWindowsPath(name)
    return bool(path.anchor) or ".." in path.parts


def lies_below(path: Path, folders: Sequence[Path]) -> bool:
    """Whether a path is one of the folders or lies in one, by its name alone: links are not looked at."""
    return any(_is_below(os.path.abspath(path), os.path.abspath(folder)) for folder in folders)  # noqa: PTH100


def resolves_below(path: Path, folders: Sequence[Path]) -> bool:
    """Whether what a path leads to, through all links, is one of the folders or lies in one.

    The cache of the Hugging Face Hub keeps the files of `snapshots/<commit>` in `blobs` beside it: they belong to it.
    """
    target = os.path.realpath(path)
    for folder in map(os.path.realpath, folders):
        if _is_below(target, folder):
            return True
        for parent in Path(folder, "here").parents:
            if parent.parent.name == "snapshots" and _is_below(target, str(parent.parent.with_name("blobs"))):
                return True
    return False


def find_file(name: str, folders: Sequence[Path], fits: Callable[[Path], bool] = is_regular) -> Path | None:
    """The first file of that name in one of the folders, or what else `fits`.

    macOS has written the names of many disks with accents apart from their letters, and other systems have not: where
    there is no such name, the other spelling is looked for.
    """
    for folder in folders:
        if fits(path := folder / name):
            return path
    if name.isascii():
        return None
    for folder in folders:
        path = folder
        for part in Path(name).parts:
            spellings = dict.fromkeys((part, unicodedata.normalize("NFC", part), unicodedata.normalize("NFD", part)))
            path /= next((each for each in spellings if is_there(path / each)), part)
        if fits(path):
            return path
    return None


def find_by_tail(
    name: str, folders: Sequence[Path], fits: Callable[[Path], bool] = is_regular, least_parts: int = 1
) -> Path | None:
    """The file, or what else `fits`, that the longest end of a path or URL leads to.

    Label Studio has written `images\\1/a.jpg`, `../../media/upload/1/a.jpg`, `/data/upload/1/a.jpg`,
    `https://host/data/upload/1/a.jpg` and `/data/local-files/?d=1/a.jpg`, all of them for `images/a.jpg`.
    """
    for text in dict.fromkeys((name, unquote(_path_of_url(name)))):
        path = PureWindowsPath(text)
        parts = [part for part in path.parts if part != path.anchor]
        parts = parts[len(parts) - parts[::-1].index("..") :] if ".." in parts else parts
        for start in range(len(parts) - least_parts + 1):
            tail = "/".join(parts[start:])
            if not leads_outside(tail) and (found := find_file(tail, folders, fits)):
                return found
    return None


def _path_of_url(name: str) -> str:
    try:
        url = urlsplit(name)
    except ValueError:
        return name
    return url.query.removeprefix("d=") if url.query.startswith("d=") else url.path


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
