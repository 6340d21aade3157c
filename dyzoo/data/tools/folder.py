"""A dataset folder as a whole, all of its splits under one list of classes: what is checked and converted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from dyzoo.data.formats.cleaning import clean
from dyzoo.data.formats.registry import detect
from dyzoo.data.formats.splits import choose_split, split_kind
from dyzoo.data.records import Notes, Sample, SplitRecord
from dyzoo.errors import DatasetError

T = TypeVar("T")


class Track(Protocol):
    """Shows how far a loop is: passes on `items`, of which there are `total`."""

    def __call__(self, items: Iterable[T], description: str, total: int) -> Iterable[T]: ...


def untracked(items: Iterable[T], description: str, total: int) -> Iterable[T]:
    """A `Track` that shows nothing."""
    return items


@dataclass(frozen=True)
class Split:
    """One split: its usable images, what was dropped or mended, and why it cannot be read, if so."""

    name: str
    samples: list[Sample]
    notes: Notes
    fault: str | None = None

    @property
    def num_boxes(self) -> int:
        """Objects in all images, crowd regions included."""
        return sum(len(sample.labels) for sample in self.samples)


@dataclass(frozen=True)
class DatasetFolder:
    """A folder with all of its splits.

    Attributes:
        labels: classes of all splits: those of the one that has most, then what only others have.
        category_ids: the number of each in the label files; where splits differ, the first one's.
        splits: in the order of `list_splits`.
        left_out: lists such as VOC's `trainval`, which only repeat what other splits hold.
    """

    path: Path
    format_name: str
    labels: tuple[str, ...]
    category_ids: tuple[int, ...]
    splits: tuple[Split, ...]
    left_out: tuple[str, ...] = ()

    def relative(self, path: Path) -> str:
        """A path as seen from the folder; as it is where it lies outside."""
        return path.relative_to(self.path).as_posix() if path.is_relative_to(self.path) else str(path)


def open_folder(path: Path, split: str | None = None, track: Track = untracked) -> DatasetFolder:
    """Read every split of a folder, or the one that `split` means.

    A split whose label file cannot be read comes with its `fault`, and empty.

    Raises:
        DatasetError: no such folder, format or split.
    """
    data_format, available = detect(path)
    names = list(available) if split is None else [choose_split(split, available, path)]
    records: dict[str, SplitRecord] = {}
    notes = {name: Notes() for name in names}
    faults: dict[str, str] = {}
    for name in track(names, "reading labels", len(names)):
        try:
            records[name] = available[name].read(notes[name])
        except DatasetError as error:
            faults[name] = str(error)
    left_out = _repetitions(records) if split is None else ()
    category_ids = _merged_labels([record for name, record in records.items() if name not in left_out])
    splits = []
    for name in (name for name in names if name not in left_out):
        images = records[name].images if name in records else []
        tracked = track(images, f"reading sizes of {name}", len(images))
        splits.append(Split(name, clean(tracked, tuple(category_ids), notes[name]), notes[name], faults.get(name)))
    return DatasetFolder(
        path, data_format.NAME, tuple(category_ids), tuple(category_ids.values()), tuple(splits), tuple(left_out)
    )


def _merged_labels(records: Sequence[SplitRecord]) -> dict[str, int]:
    """Class name -> its number."""
    merged: dict[str, int] = {}
    for record in sorted(records, key=lambda record: -len(record.labels)):
        for name, number in zip(record.labels, record.category_ids, strict=True):
            merged.setdefault(name, number)
    return merged


def _repetitions(records: dict[str, SplitRecord]) -> tuple[str, ...]:
    """Splits of no usual name all of whose images belong to splits of usual names."""
    paths = {name: {image.path for image in record.images} for name, record in records.items()}
    usual = set().union(*(paths[name] for name in paths if split_kind(name)))
    return tuple(name for name in paths if not split_kind(name) and paths[name] and paths[name] <= usual)
