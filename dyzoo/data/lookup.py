"""Finding the file that a label file of a stranger means, without ever leaving the dataset folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath
from urllib.parse import unquote, urlsplit


def leads_outside(name: str) -> bool:
    """Whether a file name, with slashes of either kind, could leave the folder it is joined to."""
    path = PureWindowsPath(name)
    return bool(path.anchor) or ".." in path.parts


def find_file(name: str, folders: Sequence[Path]) -> Path | None:
    """The first file of that name in one of the folders."""
    # Path.is_file raises for names that the file system does not take, isfile just says no.
    return next((folder / name for folder in folders if os.path.isfile(folder / name)), None)  # noqa: PTH113


def find_by_tail(name: str, folders: Sequence[Path]) -> Path | None:
    """The file that the longest end of a path or URL leads to.

    Label Studio has written `images\\1/a.jpg`, `../../media/upload/1/a.jpg`, `/data/upload/1/a.jpg`,
    `https://host/data/upload/1/a.jpg` and `/data/local-files/?d=1/a.jpg`, all of them for `images/a.jpg`.
    """
    for text in dict.fromkeys((name, unquote(_path_of_url(name)))):
        path = PureWindowsPath(text)
        parts = [part for part in path.parts if part != path.anchor]
        parts = parts[len(parts) - parts[::-1].index("..") :] if ".." in parts else parts
        for start in range(len(parts)):
            tail = "/".join(parts[start:])
            if not leads_outside(tail) and (found := find_file(tail, folders)):
                return found
    return None


def _path_of_url(name: str) -> str:
    try:
        url = urlsplit(name)
    except ValueError:
        return name
    return url.query.removeprefix("d=") if url.query.startswith("d=") else url.path
