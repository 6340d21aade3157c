"""From what a user writes to sources: files, folders, globs, lists of them, addresses, numbers of cameras."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dyzoo.errors import first_line
from dyzoo.files import read_regular
from dyzoo.images.finding import FILM_SUFFIXES, at_home, expand, is_picture_file, natural_key
from dyzoo.images.sources.archive import ARCHIVE_SUFFIX, ZipArchive, unused_name
from dyzoo.images.sources.base import Source
from dyzoo.images.sources.film import STREAM_SCHEMES, Camera, Film, Stream
from dyzoo.images.sources.single import ImageFile, Unusable
from dyzoo.images.sources.web import WEB_SCHEMES, WebAddress
from dyzoo.text import printable

LIST_SUFFIXES = (".txt", ".csv")

MAX_LIST_BYTES = 2**24
"""Bytes of the longest list of files, 17 million."""

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


def list_sources(patterns: str | Path | Iterable[str | Path]) -> list[Source]:
    """The sources that a command line names, in the order given, each once.

    Args:
        patterns: as `named_sources` takes them; a bare number is a camera unless there is such a file.

    Returns:
        Sources whose names (`Source.source`) are printable and unique: they are the same in every run, before
        anything is read. What cannot be found is among them, and says so when it is read.
    """
    if isinstance(patterns, str | Path):
        patterns = [patterns]
    found: dict[Source, None] = {}
    for pattern in patterns:
        is_camera = re.fullmatch("[0-9]{1,9}", str(pattern)) and not os.path.lexists(pattern)
        sources = [Camera.number(int(str(pattern)))] if is_camera else named_sources(pattern)
        found.update(dict.fromkeys(sources))
    taken: set[str] = set()
    return [replace(source, source=unused_name(source.source or "", taken)) for source in found]  # type: ignore[type-var]


def named_sources(name: str | Path) -> Iterator[Source]:
    """The sources of one name.

    Args:
        name: a file; a folder, for the images and films directly inside; a glob, where `**` goes into subfolders, both
            in natural order (`2.jpg` before `10.jpg`) and without hidden files; a list, `.txt` or `.csv`, with a
            file or an address on each line; an address of http, https or a stream.
    """
    if address := _address(name):
        yield address
        return
    path = at_home(name)
    if path.suffix.lower() in LIST_SUFFIXES and (path.is_file() or not _has_stars(path)):
        yield from _listed(path)
        return
    try:
        found = expand(path, is_picture_file) or [Path(name)]
    except (OSError, ValueError):  # a folder that may not be read, a name that is too long: reading it says so
        found = [Path(name)]
    yield from map(file_source, sorted(found, key=natural_key))


def file_source(path: Path) -> Source:
    """The source that a file is by its suffix: a film, an archive, or else an image."""
    suffix = path.suffix.lower()
    if suffix in FILM_SUFFIXES and not path.is_dir():
        return Film.at(path)
    if suffix == ARCHIVE_SUFFIX and not path.is_dir():
        return ZipArchive.at(path)
    return ImageFile.at(path)


def is_image_source(path: Path) -> bool:
    """Whether what the path names is read as one image; otherwise it is a film, an archive, or several."""
    source = next(named_sources(path))
    return isinstance(source, ImageFile) and source.path == path


def _has_stars(path: Path) -> bool:
    return any(letter in str(path) for letter in "*?[")


def _address(name: str | Path) -> Source | None:
    """The source at an address; None for what is none."""
    found = _ADDRESS.match(name) if isinstance(name, str) else None
    if found is None:
        return None
    address, scheme = str(name), found[1].lower()
    shown = printable(re.sub(r"^([^/]*//[^/@]*?):[^/@]*@", r"\1:***@", address))  # without a password
    if scheme not in WEB_SCHEMES + STREAM_SCHEMES:
        known = ", ".join(WEB_SCHEMES + STREAM_SCHEMES)
        return Unusable(shown, f"{shown} is not opened, expected a path or an address of {known}")
    try:
        is_whole = bool(urlsplit(address).hostname)
    except ValueError:
        is_whole = False
    if not is_whole or not address.isprintable():
        return Unusable(shown, f"{shown} is no address, expected one such as {scheme}://host/name")
    return WebAddress(address, shown) if scheme in WEB_SCHEMES else Stream(address, shown)


def _listed(path: Path) -> Iterator[Source]:
    """The sources of the lines of a list: of a `.csv` the first cell of each; relative to the list's own folder."""
    name = printable(str(path))
    try:
        text = read_regular(path, MAX_LIST_BYTES).decode("utf-8-sig", "surrogateescape")
    except FileNotFoundError:
        yield Unusable(name, f"{name}: no such file")
        return
    except (OSError, ValueError) as error:
        yield Unusable(name, f"{name} cannot be read: {getattr(error, 'strerror', None) or first_line(error)}")
        return
    lines = [line.strip() for line in text.split("\n")]
    lines = [line for line in lines if line and not line.startswith("#")]
    if path.suffix.lower() == ".csv":
        lines = [cell for line in lines if (cell := _first_cell(line))]
    if not lines:
        yield Unusable(name, f"{name} lists nothing, expected a file or an address on each line")
    for line in lines:
        yield _address(line) or _listed_file(name, path.parent / at_home(line))


def _listed_file(name: str, path: Path) -> Source:
    if path.suffix.lower() in LIST_SUFFIXES:
        shown = printable(str(path))
        return Unusable(shown, f"{shown}, listed in {name}, is a list itself, expected an image or a film")
    return file_source(path)


def _first_cell(line: str) -> str:
    try:
        row: list[Any] = next(csv.reader([line]), [""])
    except csv.Error:
        return line
    return row[0].strip() if row else ""
