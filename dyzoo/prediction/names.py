"""Names of the files that are written for each picture: no two the same, and none that of a picture to read."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path, PurePosixPath

from dyzoo.images.film_writing import FILM_SUFFIX

CROPS_NAME, LABELS_NAME = "crops", "labels"  # folders beside the annotated pictures

_SUFFIXES = ("", ".png", FILM_SUFFIX)  # of the files and folders that a stem is for
_LONGEST_STEM = 240  # bytes of a name, of which file systems take 255: there has to be room for .png, and a number


class OutputNames:
    """Stems of files in one folder, by source: that of `a/cell.jpg` is `cell`, the next one of that name `cell_2`.

    Names are compared in lower case, since some file systems do not tell cases apart.

    Args:
        out: the folder.
        sources: all there is to read, as far as it is known; those that lie in `out` keep their names.
        known: stems of sources that have theirs from an earlier run.
    """

    def __init__(self, out: Path, sources: Iterable[str], known: Mapping[str, str]) -> None:
        self._stems = dict(known)
        self._taken = {CROPS_NAME, LABELS_NAME, *_names_inside(out, sources)}
        self._taken.update(name for stem in known.values() for name in _files(stem))
        self._numbers: defaultdict[str, Iterator[int]] = defaultdict(lambda: count(1))

    def stem(self, source: str, frame: int | None = None) -> str:
        """The stem for a source, always the same; that of a frame lies in a folder of the film's stem."""
        if source not in self._stems:
            self._stems[source] = self._new(source)
        return self._stems[source] if frame is None else f"{self._stems[source]}/{frame:06d}"

    def _new(self, source: str) -> str:
        stem = _plain_stem(source)
        numbered = (f"{stem}_{n}" if n > 1 else stem for n in self._numbers[stem.lower()])
        free = next(each for each in numbered if not _files(each) & self._taken)
        self._taken |= _files(free)
        return free


def _files(stem: str) -> set[str]:
    return {f"{stem}{suffix}".lower() for suffix in _SUFFIXES}


def _plain_stem(source: str) -> str:
    if "://" in source:
        source = source.partition("?")[0].partition("#")[0]
    stem = PurePosixPath(source.replace("\0", "_")).stem
    if len(os.fsencode(stem)) > _LONGEST_STEM:
        stem = os.fsencode(stem)[:_LONGEST_STEM].decode("utf-8", "ignore")
    return stem if stem not in ("", "..") else "image"


def _names_inside(out: Path, sources: Iterable[str]) -> set[str]:
    """Names in `out` of sources, and of folders with sources."""
    there = os.path.join(os.path.realpath(out), "")  # noqa: PTH118 (ends with a separator)
    homes: dict[str, str] = {}
    found = set()
    for source in sources:
        folder, name = os.path.split(source)
        if folder not in homes:
            homes[folder] = os.path.join(os.path.realpath(folder), "")  # noqa: PTH118
        if homes[folder].startswith(there):
            found.add(Path(homes[folder].removeprefix(there), name).parts[0].lower())
    return found


def leads_outside(stem: str) -> bool:
    """Whether a stem, which a file may hold that somebody else has written, is none in the folder."""
    path = Path(stem)
    return path.is_absolute() or ".." in path.parts or not path.parts or "\0" in stem
