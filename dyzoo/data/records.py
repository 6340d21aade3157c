"""Records that the readers of label files and the rest of the data code hand to each other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dyzoo.errors import DatasetError
from dyzoo.text import printable

_EXAMPLES_PER_NOTE = 3
_EXAMPLE_LENGTH = 120
_LONGEST_NAME = 1000  # characters of a class name; tables and pictures show it as a whole


def areas_of(boxes_xyxy: np.ndarray) -> np.ndarray:
    """(M,) float64 areas of (M, 4) boxes of any precision."""
    corners = boxes_xyxy.astype(np.float64)
    return np.asarray((corners[:, 2:] - corners[:, :2]).prod(axis=1))


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and its objects, checked: the image is there, every box lies inside it and has an area.

    Arrays rather than tensors, which would use up a file descriptor each on their way to a spawned worker.

    Attributes:
        areas_px2: (M,) float64, what evaluation takes an object to be small, medium or large by: the area that its
            label file gives, COCO's of the outline, or that of its box. Computed from `boxes_xyxy` if left out.
    """

    image_path: Path
    width_px: int  # width of the upright image, after EXIF orientation
    height_px: int
    boxes_xyxy: np.ndarray  # (M, 4) float32, pixel edges
    labels: np.ndarray  # (M,) int64
    crowd: np.ndarray  # (M,) bool: regions that evaluation ignores and training leaves out
    image_id: int
    areas_px2: np.ndarray = None  # type: ignore[assignment]  # an array as soon as the sample is made

    def __post_init__(self) -> None:
        if self.areas_px2 is None:
            object.__setattr__(self, "areas_px2", areas_of(self.boxes_xyxy))


class ObjectRecord(NamedTuple):
    """One object as its label file has it: edges in the unit of its `ImageRecord`, anything a file can hold.

    `area` is what the file gives for it, in square pixels; None if it gives none.
    """

    name: str
    box_xyxy: tuple[float, float, float, float]
    crowd: bool = False
    area: float | None = None


@dataclass(frozen=True)
class ImageRecord:
    """One image of a split as its label file has it; no reader opens it, `formats.cleaning.clean` measures it.

    Attributes:
        claimed_size: the (width, height) that its label file gives, if any; the image's own may be another.
        relative: whether boxes are in shares of the image's width and height instead of pixels.
    """

    path: Path
    image_id: int
    objects: list[ObjectRecord] = field(default_factory=list)
    claimed_size: tuple[int, int] | None = None
    relative: bool = False


@dataclass(frozen=True)
class SplitRecord:
    """All a reader found in one split. `category_ids` are the numbers of `labels` in the label file.

    Raises:
        DatasetError: a class name is too long, or holds half a character, which can be neither printed nor written.
    """

    images: list[ImageRecord]
    labels: tuple[str, ...]
    category_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in self.labels:
            shown = ascii(name[:_EXAMPLE_LENGTH]) + "..." * (len(name) > _EXAMPLE_LENGTH)
            if len(name) > _LONGEST_NAME:
                raise DatasetError(
                    f"class name {shown} has {len(name)} characters, expected at most {_LONGEST_NAME}: rename it"
                )
            if any("\ud800" <= character <= "\udfff" for character in name):
                raise DatasetError(
                    f"class name {shown} has half a character (a surrogate alone), which no file can hold: rename it"
                )


@dataclass(frozen=True)
class Note:
    """One kind of thing that was dropped, mended or found, with the first examples and the images it was found in."""

    kind: str  # a plural such as "boxes without area, dropped"
    count: int
    examples: tuple[str, ...]
    images: tuple[Path, ...] = ()  # those that are known and can be shown

    def __str__(self) -> str:
        """One line: `boxes without area, dropped: 2 (a.jpg, b.jpg)`."""
        shown = ", ".join([*self.examples, "..."] if self.count > len(self.examples) else self.examples)
        return f"{self.kind}: {self.count} ({shown})"


class Notes:
    """Counts of all that was dropped or mended, by kind, with the first examples."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}
        self._images: dict[str, dict[Path, None]] = {}

    def add(self, kind: str, example: object, image: Path | None = None) -> None:
        """Count one case of `kind`, a plural such as "boxes without area, dropped", found in `image`."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        examples = self._examples.setdefault(kind, [])
        images = self._images.setdefault(kind, {})
        if len(examples) < _EXAMPLES_PER_NOTE:
            # Names come from strangers: one line, and nothing that a terminal would obey.
            text = printable(" ".join(str(example).split()))
            examples.append(text if len(text) <= _EXAMPLE_LENGTH else text[:_EXAMPLE_LENGTH] + "...")
        if image is not None:
            images[image] = None

    def add_all(self, kind: str, examples: Iterable[object]) -> None:
        """Count every one of `examples`."""
        for example in examples:
            self.add(kind, example)

    def include(self, others: Notes) -> None:
        """Count all that `others` have counted."""
        for note in others.items():
            self._counts[note.kind] = self._counts.get(note.kind, 0) + note.count
            examples = self._examples.setdefault(note.kind, [])
            examples += note.examples[: _EXAMPLES_PER_NOTE - len(examples)]
            self._images.setdefault(note.kind, {}).update(dict.fromkeys(note.images))

    def items(self) -> list[Note]:
        """One for each kind, in the order in which they were first met."""
        return [
            Note(kind, count, tuple(self._examples[kind]), tuple(self._images[kind]))
            for kind, count in self._counts.items()
        ]

    def lines(self) -> list[str]:
        """One line for each kind: `boxes without area, dropped: 2 (a.jpg, b.jpg)`."""
        return [str(note) for note in self.items()]
