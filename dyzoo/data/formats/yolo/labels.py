"""The label files of YOLO: lines of a class number and a box, an outline, or a box with keypoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dyzoo.data.formats.lookup import find_file, read_regular, resolves_below
from dyzoo.data.formats.yolo.keypoints import KeypointGuess
from dyzoo.data.records import Notes, ObjectRecord
from dyzoo.errors import DatasetError

# Tools round, and some let a centre lie this far over the edge; beyond it the numbers are no shares of the image.
_TOLERANCE = 0.01
_OUT_OF_RANGE = "label lines with numbers outside 0..1, dropped"
_MOST_SHOWN = 200  # characters of a line that is dropped


class LabelFolders:
    """Where label files are expected; every folder of images is asked about once."""

    def __init__(self) -> None:
        self._of_images: dict[Path, Path] = {}

    def path(self, image: Path) -> Path:
        """The label file of an image, whether or not it is there."""
        folder = self._of_images.get(image.parent)
        if folder is None:
            folder = self._of_images[image.parent] = _label_folder(image.parent)
        return folder / f"{image.stem}.txt"


def _label_folder(folder: Path) -> Path:
    for index in range(len(folder.parts) - 1, 0, -1):
        if folder.parts[index] == "images":
            labels = Path(*folder.parts[:index], "labels", *folder.parts[index + 1 :])
            # Some folder far above may be called `images`, too: then there is no such folder of labels.
            return labels if labels.is_dir() else folder
    return folder


class _Undecided(NamedTuple):
    """A line that may be an outline, or a box with keypoints."""

    objects: list[ObjectRecord]  # all objects of the image
    position: int  # the place of the line's object among them, which is the box so far
    outline: ObjectRecord | str  # the object if the line is an outline, or the fault it has then
    where: str
    image: Path


class LabelReader:
    """Reads the label files of one split.

    Args:
        names: class names by number.
        keypoint_values: how many numbers follow a box; 0 if nothing says so.
        homes: the folders of the dataset; lines of files elsewhere are not shown.
        notes: told of what is dropped.
    """

    def __init__(self, names: dict[int, str], keypoint_values: int, homes: Sequence[Path], notes: Notes) -> None:
        self._names = names
        self._keypoint_values = keypoint_values
        self._homes = homes
        self._notes = notes
        self._guess = None if keypoint_values else KeypointGuess()
        self._undecided: list[_Undecided] = []

    def read(self, path: Path, image: Path) -> list[ObjectRecord] | None:
        """The objects of one image, in shares of it, complete after `settle`; None if its label file cannot be read.

        Args:
            path: the label file.
            image: its image, for messages.
        """
        try:
            lines = _read(path).decode("utf-8-sig").splitlines()
        except FileNotFoundError:
            self._notes.add("images without a label file, taken as background", image.name, image)
            return []
        except DatasetError as error:
            self._notes.add("label files that cannot be read, their images dropped", error, image)
            return None
        except UnicodeDecodeError:
            self._notes.add("label files that are not text, their images dropped", path.name)
            return None
        objects: list[ObjectRecord] = []
        is_shown: bool | None = None
        for number, line in enumerate(lines, start=1):
            texts = line.split()
            if not texts:
                continue
            parsed = self._parse(texts)
            found = parsed if isinstance(parsed, str) else _object(*parsed)
            if isinstance(found, ObjectRecord) and len(texts) == 5:
                objects.append(found)
                continue
            where = f"{path.name}:{number}"
            if isinstance(found, str):
                if is_shown is None:
                    is_shown = resolves_below(path, self._homes)
                where += f": {line.strip()[:_MOST_SHOWN]}" if is_shown else ""
            if not isinstance(parsed, str) and len(parsed[1]) > 4 and self._may_be_keypoints(parsed[1], found):
                name, values = parsed
                self._undecided.append(_Undecided(objects, len(objects), found, where, image))
                objects.append(_box(name, values))
            elif isinstance(found, str):
                self._notes.add(found, where, image)
            else:
                objects.append(found)
        return objects

    def settle(self) -> None:
        """Decide what the lines are that may be several things, and put it into the lists that `read` returned."""
        if self._guess is not None and self._guess.is_certain():
            for each in self._undecided:
                self._notes.add("lines of a box and what looks like keypoints, the box taken", each.where, each.image)
        else:
            self._take_outlines()

    def _may_be_keypoints(self, values: Sequence[float], outline: ObjectRecord | str) -> bool:
        if self._guess is None:
            return False
        is_outline = isinstance(outline, ObjectRecord)
        if self._guess.fits(values, is_outline):
            return True
        if is_outline:
            self._take_outlines()
        return False

    def _take_outlines(self) -> None:
        """As one line has shown that the long ones are outlines, or too little speaks for keypoints."""
        dropped: dict[int, tuple[list[ObjectRecord], set[int]]] = {}
        for objects, position, outline, where, image in self._undecided:
            if isinstance(outline, str):
                self._notes.add(outline, where, image)
                dropped.setdefault(id(objects), (objects, set()))[1].add(position)
            else:
                objects[position] = outline
        for objects, positions in dropped.values():
            objects[:] = [each for position, each in enumerate(objects) if position not in positions]
        self._guess, self._undecided = None, []

    def _parse(self, texts: list[str]) -> tuple[str, list[float]] | str:
        """Class name and numbers of a line, or what is wrong with it."""
        try:
            class_value, *values = map(float, texts)
        except ValueError:
            return "label lines that are not all numbers, dropped"
        if not class_value.is_integer() or int(class_value) not in self._names:
            return f"label lines of a class number that is not among the {len(self._names)} names, dropped"
        if self._keypoint_values and len(values) == 4 + self._keypoint_values:
            values = values[:4]
        return self._names[int(class_value)], values


def _read(path: Path) -> bytes:
    """The bytes of a label file, also if its name has accents of the other spelling. `FileNotFoundError` if absent."""
    try:
        return read_regular(path)
    except FileNotFoundError:
        other = None if path.name.isascii() else find_file(path.name, [path.parent])
        if other is None:
            raise
        return read_regular(other)


def _object(name: str, values: list[float]) -> ObjectRecord | str:
    """The box or the outline of one line, or what is wrong with it."""
    low, high = -_TOLERANCE, 1 + _TOLERANCE
    if len(values) == 4:
        x, y, w, h = values  # one by one, which is much faster than `all`: a file may have a million boxes
        if low <= x <= high and low <= y <= high and low <= w <= high and low <= h <= high:
            return _box(name, values)
        return _OUT_OF_RANGE
    if len(values) < 6 or len(values) % 2:
        return "label lines without four numbers behind the class, or an outline of points, dropped"
    if not all(low <= value <= high for value in values):
        return _OUT_OF_RANGE
    xs, ys = values[::2], values[1::2]
    return ObjectRecord(name, (min(xs), min(ys), max(xs), max(ys)))


def _box(name: str, values: Sequence[float]) -> ObjectRecord:
    x, y, w, h = values[:4]
    return ObjectRecord(name, (x - w / 2, y - h / 2, x + w / 2, y + h / 2))
