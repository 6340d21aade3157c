"""The formats of dataset folders, and which of them a folder is of."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from dyzoo.data.formats import coco, voc, yolo
from dyzoo.data.formats.splits import FoundSplit, check_split_name
from dyzoo.errors import DatasetError


class Format(Protocol):
    """The names that a module has to have to be a format."""

    NAME: str
    LAYOUT: str  # the look of a folder of this format, in one line

    def find_splits(self, folder: Path) -> dict[str, FoundSplit]:
        """The splits by name, ready to be read; empty if `folder` is not of this format."""


FORMATS: tuple[Format, ...] = (voc, yolo, coco)
"""In the order in which they are tried."""


def list_splits(folder: str | Path) -> tuple[str, ...]:
    """Names of the splits in a dataset folder. Raises `DatasetError` if it is of no known format."""
    return tuple(detect(Path(folder))[1])


def detect(folder: Path) -> tuple[Format, dict[str, FoundSplit]]:
    """The format of a folder, and its splits.

    Raises:
        DatasetError: it is of no known format, or has a split that no file could be called after.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder} is {'a file' if folder.exists() else 'absent'}, expected a dataset folder")
    for each in FORMATS:
        if splits := each.find_splits(folder):
            for name, found in splits.items():
                check_split_name(name, found.source)
            return each, splits
    layouts = "; ".join(f"{each.NAME} ({each.LAYOUT})" for each in FORMATS)
    fault = "of no known format" if any(folder.iterdir()) else "empty"
    raise DatasetError(f"{folder} is {fault}, expected {layouts}")
