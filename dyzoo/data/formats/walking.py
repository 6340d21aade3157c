"""The images below a folder, also through links to folders, without walking in circles or over the whole disk."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from dyzoo.data.formats.lookup import is_made_up, resolves_below
from dyzoo.data.records import Notes
from dyzoo.errors import DatasetError
from dyzoo.images.finding import IMAGE_SUFFIXES, natural_key


def images_below(folder: Path, notes: Notes | None = None, homes: Sequence[Path] = ()) -> list[Path]:
    """The images in a folder and its subfolders, naturally sorted.

    Args:
        folder: is not hidden itself; what is hidden below it is passed over.
        notes: told of subfolders that cannot be read, and of links that lead out of `homes`.
        homes: the folders of the dataset.

    Raises:
        DatasetError: the folder itself cannot be read.
    """
    return sorted(files_below(folder, IMAGE_SUFFIXES, notes, homes), key=natural_key)


def files_below(
    folder: Path, suffixes: Sequence[str], notes: Notes | None = None, homes: Sequence[Path] = ()
) -> Iterator[Path]:
    """The regular files with one of the suffixes, in lower case, in no special order.

    Links to folders are followed after all else, to each folder once, and never to one that holds `folder`: so a file
    has the path without a link where it has one.
    """
    if notes is not None:
        note_way_out("folders", folder, homes, notes)
    seen = {_identity(parent) for parent in Path(os.path.realpath(folder)).parents}
    waiting, linked = deque[Path](), deque([folder])
    while waiting or linked:
        is_linked = not waiting
        current = waiting.popleft() if waiting else linked.popleft()
        try:
            identity = _identity(current)
            if identity in seen:
                continue
            seen.add(identity)
            if is_linked and is_made_up(current):
                raise OSError(errno.EINVAL, "it is made up by the system")
            with os.scandir(current) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            if current == folder:
                raise DatasetError(f"{folder} cannot be read: {error.strerror or error}") from None
            if notes is not None:
                notes.add("folders that cannot be read, passed over", f"{current}: {error.strerror or error}")
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            is_link = entry.is_symlink()
            if _is_folder(entry):
                (linked if is_link else waiting).append(current / entry.name)
                kind = "folders"
            elif os.path.splitext(entry.name)[1].lower() in suffixes and _is_file(entry):  # noqa: PTH122
                yield current / entry.name
                kind = "files"
            else:
                continue
            if is_link and notes is not None:
                note_way_out(kind, current / entry.name, homes, notes)


def note_way_out(kind: str, path: Path, homes: Sequence[Path], notes: Notes) -> None:
    """Say that something, "files" or "folders", belongs to somebody else, if links lead out of `homes` to it."""
    if not resolves_below(path, homes):
        example = f"{path.name} -> {os.path.realpath(path)}"
        notes.add(f"{kind} linked from outside the dataset folder, read", example)


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False
