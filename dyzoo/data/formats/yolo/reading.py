"""Reading a split of a YOLO folder: its images, and the objects of their label files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dyzoo.data.formats.lookup import is_folder, is_regular, is_there
from dyzoo.data.formats.splits import FoundSplit
from dyzoo.data.formats.walking import images_below
from dyzoo.data.formats.yolo.folder import YoloFolder, describe_folder
from dyzoo.data.formats.yolo.labels import LabelFolders, LabelReader
from dyzoo.data.formats.yolo.paths import listed_images
from dyzoo.data.records import ImageRecord, Notes, SplitRecord
from dyzoo.errors import DatasetError
from dyzoo.images.finding import is_image_file
from dyzoo.text import printable

NAME = "YOLO"
LAYOUT = "data.yaml, obj.data or classes.txt with images/ and labels/"


def find_splits(folder: Path) -> dict[str, FoundSplit]:
    """The splits by name, each with the first file or folder that lists its images; none if this is not YOLO.

    Raises:
        DatasetError: `data.yaml` or its like cannot be read, or names what lies outside the folder.
    """
    notes = Notes()
    if (described := describe_folder(folder, notes)) is None:
        return {}
    return {
        name: FoundSplit(sources[0], partial(_read, described, sources, notes))
        for name, sources in described.splits.items()
    }


def _read(folder: YoloFolder, sources: Sequence[Path], described: Notes, notes: Notes) -> SplitRecord:
    """Read a split. Labels are in the order of their numbers, image ids count from 1.

    Args:
        folder: all that its splits share.
        sources: of the images.
        described: what was noted when the folder was described; every split tells it.
        notes: of this reading.

    Raises:
        DatasetError: the images of the split are not where the files say, or the class names are unusable.
    """
    notes.include(described)
    names = folder.class_names()
    labels_of = LabelFolders()
    reader = LabelReader(names, folder.keypoint_values, folder.homes, notes)
    images: list[ImageRecord] = []
    for path in _image_paths(folder, sources, labels_of, notes):
        objects = reader.read(labels_of.path(path), path)
        if objects is not None:
            images.append(ImageRecord(path, len(images) + 1, objects, relative=True))
    reader.settle()
    labels: dict[str, int] = {}
    for number, name in sorted(names.items()):
        if labels.setdefault(name, number) != number:
            notes.add("class names with two numbers, taken as one class", name)
    return SplitRecord(images, tuple(labels), tuple(labels.values()))


def _image_paths(folder: YoloFolder, sources: Sequence[Path], labels_of: LabelFolders, notes: Notes) -> list[Path]:
    """The images of a split, each once."""
    paths: dict[Path, None] = {}
    for source in sources:
        if is_folder(source):
            found = images_below(source, notes, folder.homes)
            _note_labels_without_image(source, found, labels_of, notes)
        elif not is_there(source):
            what = f"{printable(str(source))} is absent, expected a folder or a list of images"
            raise DatasetError(f"{what}: see {folder.source}")
        elif is_regular(source) and is_image_file(source):
            found = [source]
        else:
            found = list(listed_images(source, folder.homes, notes))
        for path in found:
            if path in paths:
                notes.add("images listed more than once, taken once", path.name, path)
            paths[path] = None
    return list(paths)


def _note_labels_without_image(folder: Path, images: Sequence[Path], labels_of: LabelFolders, notes: Notes) -> None:
    """Look into folders of labels alone: beside images lie texts of all kinds."""
    expected = {labels_of.path(image) for image in images}
    label_folders = {path.parent for path in expected} | {labels_of.path(folder / "any.jpg").parent}
    for label_folder in sorted(label_folders - {image.parent for image in images} - {folder}):
        rest = (path.name for path in sorted(label_folder.glob("*.txt")) if path not in expected)
        notes.add_all("label files without an image, passed over", (n for n in rest if n != "classes.txt"))
