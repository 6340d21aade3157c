"""Where the paths in the files of a YOLO folder lead: to images of its own, also if they were written elsewhere.

All that a path may lead to are the homes of the dataset: its folder, and the one that `path` of its `data.yaml` names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from dyzoo.data.formats.lookup import (
    find_by_tail,
    find_file,
    is_folder,
    is_regular,
    is_there,
    leads_outside,
    lies_below,
    read_own_text,
)
from dyzoo.data.formats.walking import note_way_out
from dyzoo.data.records import Notes
from dyzoo.errors import DatasetError
from dyzoo.images.finding import IMAGE_SUFFIXES

FOUND_BY_TAIL = "images not where the label file says, found by name"


def find_source(entry: str, homes: Sequence[Path], described_by: str, notes: Notes) -> Path:
    """The folder, list or image that an entry of `data.yaml` or `obj.data` means; its likeliest place if it is absent.

    Args:
        entry: with slashes of either kind. Roboflow writes `../train/images` where `train/images` is meant, and
            darknet's paths start at the folder it is run in, conventionally the parent of `data/`: what lies in the
            homes comes first.
        homes: the likelier first.
        described_by: file and key, for messages.
        notes: told of what lies elsewhere than the entry says.

    Raises:
        DatasetError: the entry leads to something out of the homes, or to a folder that holds the dataset.
    """
    plain = entry.strip().replace("\\", "/")
    inside = plain
    while inside.startswith(("../", "./")):
        inside = inside.partition("/")[2]
    inside = inside or "."
    for text in dict.fromkeys((inside, inside.removeprefix("data/"), plain)):
        for name, home in _in_homes(text, homes, homes):
            if found := find_file(name, [home], is_there):
                return _checked(found, homes, described_by)
    leads_to_others = any(is_there(home / plain) for home in homes)
    # One word such as `images` is no proof that a copy of what is there elsewhere is meant.
    if found := find_by_tail(plain, homes, is_there, least_parts=2 if leads_to_others else 1):
        notes.add(FOUND_BY_TAIL, entry)
        return _checked(found, homes, described_by)
    if leads_to_others:
        raise DatasetError(f"{described_by} leads out of {homes[-1]}: {entry!r}; name the folder it lies in as `path`")
    return homes[0] / inside if not leads_outside(inside) else homes[0] / Path(inside).name


def listed_images(source: Path, homes: Sequence[Path], notes: Notes) -> Iterator[Path]:
    """The images that a list names, one a line; paths of another machine are found by their ends.

    Raises:
        DatasetError: the list is no text file, or does not belong to the dataset.
    """
    bases = list(dict.fromkeys((source.parent, *homes)))
    known: dict[str, tuple[Path, bool]] = {}  # the folder in which the images of a line's folder were found
    folders: set[Path] = set()
    for number, line in enumerate(read_own_text(source, homes).splitlines(), start=1):
        line = line.strip()
        if not line:
            continue
        head, _, name = line.replace("\\", "/").rpartition("/")
        folder, by_tail = known.get(head, (None, False))
        path = find_file(name, [folder]) if folder is not None and not leads_outside(name) else None
        if path is None:
            path, by_tail = _find_listed(line, bases, homes)
            if path is not None:
                known[head] = path.parent, by_tail
        if path is not None:
            if by_tail:
                notes.add(FOUND_BY_TAIL, line)
            if path.parent not in folders:
                folders.add(path.parent)
                note_way_out("folders", path.parent, homes, notes)
            if path.is_symlink():
                note_way_out("files", path, homes, notes)
            yield path
        elif not line.lower().endswith(IMAGE_SUFFIXES):  # it may be anything, and is not shown
            notes.add("lines of a list that name no image, passed over", f"{source.name}:{number}")
        elif leads_outside(line):
            notes.add("images outside the dataset folder, refused", line)
        else:
            notes.add("images absent on disk, dropped", line)


def _find_listed(line: str, bases: Sequence[Path], homes: Sequence[Path]) -> tuple[Path | None, bool]:
    """The image of a line, and whether the end of its path had to do."""
    plain = line.replace("\\", "/")
    for entry in dict.fromkeys((line, plain, plain.removeprefix("data/"), plain.removeprefix("./"))):
        for name, base in _in_homes(entry, bases, homes):
            if found := find_file(name, [base]):
                return found, False
    return find_by_tail(plain, homes), True


def _in_homes(entry: str, bases: Sequence[Path], homes: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """The meanings of an entry that stay in the dataset: a path, and the folder it starts from."""
    for base in bases:
        if not leads_outside(entry):
            yield entry, base
            continue
        path = os.path.abspath(base / entry)  # noqa: PTH100 (links are not followed)
        for home in homes:
            if lies_below(Path(path), [home]):
                yield os.path.relpath(path, home), home


def _checked(source: Path, homes: Sequence[Path], described_by: str) -> Path:
    """Raises `DatasetError` unless the source is a file, or a folder that does not hold the whole dataset and more."""
    if is_folder(source):
        real, folder = source.resolve(), homes[-1].resolve()
        if real in folder.parents:
            raise DatasetError(
                f"{described_by} is {real}, which holds the dataset folder {folder}, expected one below it"
            )
    elif not is_regular(source):
        raise DatasetError(
            f"{described_by} is {source}, which is no regular file, expected a folder or a list of images"
        )
    return source
