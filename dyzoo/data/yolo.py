"""YOLO: one text file of boxes for each image, as Ultralytics, CVAT, Label Studio, Roboflow and labelImg write it.

A line is `class x y width height`: a number among the class names, the centre of the box and its sides, relative to
the image's. A longer line of an odd count is an outline, `class x y x y x y ...`, and becomes the box around it. Where
`data.yaml` has a `kpt_shape`, what follows the box is keypoints. An image without a label file, or with an empty one,
shows background.

Class names and splits come from `data.yaml` (Ultralytics), from `obj.data` (darknet), or from `classes.txt`. An image's
label file lies where the last folder `images` of its path says `labels` instead, or beside the image.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dyzoo.data.records import ImageRecord, Notes, ObjectRecord, SplitRecord
from dyzoo.data.yolo_layouts import Layout, find_layout, images_below
from dyzoo.errors import DatasetError, ImageError
from dyzoo.images import is_image_file, read_image_size

NAME = "YOLO"
LAYOUT = "data.yaml, obj.data or classes.txt with images/ and labels/"

# Tools round, and some let a centre lie this far over the edge; beyond it the numbers are no shares of the image.
_TOLERANCE = 0.01


def find_splits(folder: Path) -> dict[str, Path]:
    """Split name -> the file or folder that lists its images; empty if this is not YOLO.

    Raises:
        DatasetError: `data.yaml` or its like cannot be read.
    """
    layout = find_layout(folder)
    return {name: sources[0] for name, sources in layout.splits.items()} if layout else {}


def read(folder: Path, split: str, notes: Notes) -> SplitRecord:
    """Read one of `find_splits`. Labels are in the order of their numbers, image ids count from 1.

    Raises:
        DatasetError: the images of the split are not where the files say, or the class names are unusable.
    """
    layout = find_layout(folder)
    if layout is None:
        raise DatasetError(f"{folder} is not {NAME}, expected {LAYOUT}")
    names = layout.class_names()
    reader = _LabelReader(names, layout.keypoint_values, notes)
    images: list[ImageRecord] = []
    for path in _image_paths(layout, layout.splits[split], notes):
        try:
            size = read_image_size(path)
        except ImageError as error:
            notes.add("images that cannot be opened, dropped", error, path)
            continue
        objects = reader.read(label_path(path), path, size)
        if objects is not None:
            images.append(ImageRecord(path, len(images) + 1, objects, size))
    labels: dict[str, int] = {}
    for number, name in sorted(names.items()):
        if labels.setdefault(name, number) != number:
            notes.add("class names with two numbers, taken as one class", name)
    return SplitRecord(images, tuple(labels), tuple(labels.values()))


def label_path(image: Path) -> Path:
    """Where the label file of an image is expected."""
    for index in range(len(image.parts) - 2, 0, -1):
        if image.parts[index] == "images":
            path = Path(*image.parts[:index], "labels", *image.parts[index + 1 :]).with_suffix(".txt")
            # Some folder far above may be called `images`, too: then there is no such folder of labels.
            return path if path.parent.is_dir() else image.with_suffix(".txt")
    return image.with_suffix(".txt")


def _image_paths(layout: Layout, sources: Sequence[Path], notes: Notes) -> list[Path]:
    """The images of a split, each once."""
    paths: dict[Path, None] = {}
    for source in sources:
        if source.is_dir():
            found = images_below(source)
            _note_labels_without_image(source, found, notes)
        elif is_image_file(source):
            found = [source]
        elif source.is_file():
            found = list(_listed_images(source, layout, notes))
        else:
            raise DatasetError(f"{source} is absent, expected a folder or a list of images: see {layout.source}")
        for path in found:
            if path in paths:
                notes.add("images listed more than once, taken once", path.name, path)
            paths[path] = None
    return list(paths)


def _listed_images(source: Path, layout: Layout, notes: Notes) -> Iterable[Path]:
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DatasetError(f"{source} is not a text file, expected one image path a line") from None
    for line in filter(None, map(str.strip, lines)):
        # Darknet's paths start at the folder it is run in, conventionally the parent of `data/`.
        entries = (line, line.removeprefix("data/"), line.removeprefix("./"))
        candidates = [base / entry for entry in entries for base in (source.parent, layout.root)]
        # Path.is_file raises for names that the file system does not take, isfile just says no.
        path = next((path for path in candidates if os.path.isfile(path)), None)  # noqa: PTH113
        if path is None:
            notes.add("images absent on disk, dropped", line)
        else:
            yield path


def _note_labels_without_image(folder: Path, images: Sequence[Path], notes: Notes) -> None:
    """Of folders of labels alone: beside images lie texts of all kinds."""
    expected = {label_path(image) for image in images}
    label_folders = {path.parent for path in expected} | {label_path(folder / "any.jpg").parent}
    for label_folder in sorted(label_folders - {image.parent for image in images} - {folder}):
        rest = (path.name for path in sorted(label_folder.glob("*.txt")) if path not in expected)
        notes.add_all("label files without an image, passed over", (n for n in rest if n != "classes.txt"))


@dataclass(frozen=True)
class _LabelReader:
    names: dict[int, str]
    keypoint_values: int
    notes: Notes

    def read(self, path: Path, image: Path, size: tuple[int, int]) -> list[ObjectRecord] | None:
        """The objects of one image; None if its label file cannot be read."""
        if not path.is_file():
            self.notes.add("images without a label file, taken as background", image.name, image)
            return []
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError:
            self.notes.add("label files that are not text, their images dropped", path.name)
            return None
        objects = []
        for number, line in enumerate(lines, start=1):
            values = line.split()
            found = self._object(values, size) if values else None
            if isinstance(found, ObjectRecord):
                objects.append(found)
            elif found is not None:
                self.notes.add(found, f"{path.name}:{number}: {line.strip()}", image)
        return objects

    def _object(self, texts: list[str], size: tuple[int, int]) -> ObjectRecord | str:
        """The object of one line, or what is wrong with it."""
        try:
            class_value, *values = map(float, texts)
        except ValueError:
            return "label lines that are not all numbers, dropped"
        if not class_value.is_integer() or int(class_value) not in self.names:
            return f"label lines of a class number that is not among the {len(self.names)} names, dropped"
        if self.keypoint_values and len(values) == 4 + self.keypoint_values:
            values = values[:4]
        if not (len(values) == 4 or (len(values) >= 6 and len(values) % 2 == 0)):
            return "label lines without four numbers behind the class, or an outline of points, dropped"
        if not all(-_TOLERANCE <= value <= 1 + _TOLERANCE for value in values):
            return "label lines with numbers outside 0..1, dropped"
        width, height = size
        if len(values) == 4:
            x, y, w, h = values
            corners = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
        else:
            xs, ys = values[::2], values[1::2]
            corners = (min(xs) * width, min(ys) * height, max(xs) * width, max(ys) * height)
        return ObjectRecord(self.names[int(class_value)], corners)
