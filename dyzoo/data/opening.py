"""The way in for datasets of all formats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dyzoo.data.dataset import DetectionDataset
from dyzoo.data.formats.cleaning import clean
from dyzoo.data.formats.registry import detect
from dyzoo.data.formats.splits import choose_split
from dyzoo.data.records import Notes, SplitRecord
from dyzoo.errors import DatasetError
from dyzoo.text import printable


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
    record = splits[split].read(notes)
    names = tuple(labels) if labels is not None else record.labels
    if len(set(names)) < len(names):
        raise DatasetError(f"labels {', '.join(map(printable, names))} name a class twice")
    samples = clean(record.images, names, notes)
    if not any((~sample.crowd).any() for sample in samples):
        reasons = "; ".join(notes.lines()) or (f"{len(samples)} images, not one box" if samples else "no images")
        raise DatasetError(f"{folder}, split {split!r} ({data_format.NAME}) holds no usable object: {reasons}")
    return DetectionDataset(samples, names, _category_ids(names, record), notes.lines())


def _category_ids(names: Sequence[str], record: SplitRecord) -> tuple[int, ...]:
    """The ids of the label file; classes it does not know get numbers beyond."""
    known = dict(zip(record.labels, record.category_ids, strict=True))
    unused = max(known.values(), default=0) + 1
    ids = []
    for name in names:
        ids.append(known.get(name, unused))
        unused += name not in known
    return tuple(ids)
