"""The formats of dataset folders, and the way in for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from dyzoo.data import coco, voc, yolo
from dyzoo.data.cleaning import clean
from dyzoo.data.dataset import DetectionDataset
from dyzoo.data.records import Notes, SplitRecord
from dyzoo.data.splits import check_split_name, choose_split
from dyzoo.errors import DatasetError
from dyzoo.text import printable


class Format(Protocol):
    """What a module has to offer to be a format."""

    NAME: str
    LAYOUT: str  # what a folder of this format looks like, in one line

    def find_splits(self, folder: Path) -> dict[str, Path]:
        """Split name -> the file or folder that defines it; empty if `folder` is not of this format."""

    def read(self, folder: Path, split: str, notes: Notes) -> SplitRecord:
        """Read one of `find_splits`; boxes may be as wrong as the label files are."""


FORMATS: tuple[Format, ...] = (voc, yolo, coco)
"""In the order in which they are tried."""


def list_splits(folder: str | Path) -> tuple[str, ...]:
    """Names of the splits in a dataset folder. Raises `DatasetError` if it is of no known format."""
    return tuple(detect(Path(folder))[1])


def open_dataset(folder: str | Path, split: str | None = None, labels: Sequence[str] | None = None) -> DetectionDataset:
    """Open a dataset folder: Pascal VOC, YOLO or COCO JSON, whichever it is.

    Args:
        folder: see `LAYOUT` of each format.
        split: a name as in `list_splits`, or its kind: "val" finds `valid` and `val2017`. None opens the only split.
        labels: class names in the wanted order; objects of other classes are dropped. None takes those of the split.

    Raises:
        DatasetError: no such folder, format or split, a label file that cannot be read, or no usable object.
    """
    folder = Path(folder)
    data_format, splits = detect(folder)
    split = choose_split(split, splits, folder)
    notes = Notes()
    record = data_format.read(folder, split, notes)
    names = tuple(labels) if labels is not None else record.labels
    if len(set(names)) < len(names):
        raise DatasetError(f"labels {', '.join(map(printable, names))} name a class twice")
    samples = clean(record.images, names, notes)
    if not any((~sample.crowd).any() for sample in samples):
        reasons = "; ".join(notes.lines()) or (f"{len(samples)} images, not one box" if samples else "no images")
        raise DatasetError(f"{folder}, split {split!r} ({data_format.NAME}) holds no usable object: {reasons}")
    return DetectionDataset(samples, names, _category_ids(names, record), notes.lines())


def detect(folder: Path) -> tuple[Format, dict[str, Path]]:
    """The format of a folder, and its splits.

    Raises:
        DatasetError: it is of no known format, or has a split that no file could be called after.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder} is {'a file' if folder.exists() else 'absent'}, expected a dataset folder")
    for each in FORMATS:
        if splits := each.find_splits(folder):
            for name, source in splits.items():
                check_split_name(name, source)
            return each, splits
    layouts = "; ".join(f"{each.NAME} ({each.LAYOUT})" for each in FORMATS)
    fault = "of no known format" if any(folder.iterdir()) else "empty"
    raise DatasetError(f"{folder} is {fault}, expected {layouts}")


def _category_ids(names: Sequence[str], record: SplitRecord) -> tuple[int, ...]:
    """The ids of the label file; classes it does not know get numbers beyond."""
    known = dict(zip(record.labels, record.category_ids, strict=True))
    unused = max(known.values(), default=0) + 1
    ids = []
    for name in names:
        ids.append(known.get(name, unused))
        unused += name not in known
    return tuple(ids)
