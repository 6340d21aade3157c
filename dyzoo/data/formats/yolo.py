"""YOLO: one text file of boxes for each image, as Ultralytics, CVAT, Label Studio, Roboflow and labelImg write it.

A line is `class x y width height`: a number among the class names, the centre of the box and its sides, relative to
the image's. A longer line of an odd count is an outline, `class x y x y x y ...`, and becomes the box around it. Where
`data.yaml` has a `kpt_shape`, or all longer lines look like it, what follows the box is keypoints. An image without a
label file, or with an empty one, shows background.

Class names and splits come from `data.yaml` (Ultralytics), from `obj.data` (darknet), or from `classes.txt`. An image's
label file lies where the last folder `images` of its path says `labels` instead, or beside the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dyzoo.data.formats.lookup import is_folder, is_regular, is_there
from dyzoo.data.formats.walking import images_below
from dyzoo.data.formats.yolo_labels import LabelFolders, LabelReader
from dyzoo.data.formats.yolo_layouts import Layout, find_layout
from dyzoo.data.formats.yolo_paths import listed_images
from dyzoo.data.records import ImageRecord, Notes, SplitRecord
from dyzoo.errors import DatasetError, ImageError
from dyzoo.images.reading import is_image_file, read_image_size
from dyzoo.text import printable

NAME = "YOLO"
LAYOUT = "data.yaml, obj.data or classes.txt with images/ and labels/"


def find_splits(folder: Path) -> dict[str, Path]:
    """Split name -> the file or folder that lists its images; empty if this is not YOLO.

    Raises:
        DatasetError: `data.yaml` or its like cannot be read, or names what lies outside the folder.
    """
    layout = find_layout(folder, Notes())
    return {name: sources[0] for name, sources in layout.splits.items()} if layout else {}


def read(folder: Path, split: str, notes: Notes) -> SplitRecord:
    """Read one of `find_splits`. Labels are in the order of their numbers, image ids count from 1.

    Raises:
        DatasetError: the images of the split are not where the files say, or the class names are unusable.
    """
    layout = find_layout(folder, notes)
    if layout is None:
        raise DatasetError(f"{folder} is not {NAME}, expected {LAYOUT}")
    names = layout.class_names()
    labels_of = LabelFolders()
    reader = LabelReader(names, layout.keypoint_values, layout.homes, notes)
    images: list[ImageRecord] = []
    for path in _image_paths(layout, layout.splits[split], labels_of, notes):
        try:
            size = read_image_size(path)
        except ImageError as error:
            notes.add("images that cannot be opened, dropped", error, path)
            continue
        objects = reader.read(labels_of.path(path), path, size)
        if objects is not None:
            images.append(ImageRecord(path, len(images) + 1, objects, size))
    reader.settle()
    labels: dict[str, int] = {}
    for number, name in sorted(names.items()):
        if labels.setdefault(name, number) != number:
            notes.add("class names with two numbers, taken as one class", name)
    return SplitRecord(images, tuple(labels), tuple(labels.values()))


def _image_paths(layout: Layout, sources: Sequence[Path], labels_of: LabelFolders, notes: Notes) -> list[Path]:
    """The images of a split, each once."""
    paths: dict[Path, None] = {}
    for source in sources:
        if is_folder(source):
            found = images_below(source, notes, layout.homes)
            _note_labels_without_image(source, found, labels_of, notes)
        elif not is_there(source):
            what = f"{printable(str(source))} is absent, expected a folder or a list of images"
            raise DatasetError(f"{what}: see {layout.source}")
        elif is_regular(source) and is_image_file(source):
            found = [source]
        else:
            found = list(listed_images(source, layout.homes, notes))
        for path in found:
            if path in paths:
                notes.add("images listed more than once, taken once", path.name, path)
            paths[path] = None
    return list(paths)


def _note_labels_without_image(folder: Path, images: Sequence[Path], labels_of: LabelFolders, notes: Notes) -> None:
    """Of folders of labels alone: beside images lie texts of all kinds."""
    expected = {labels_of.path(image) for image in images}
    label_folders = {path.parent for path in expected} | {labels_of.path(folder / "any.jpg").parent}
    for label_folder in sorted(label_folders - {image.parent for image in images} - {folder}):
        rest = (path.name for path in sorted(label_folder.glob("*.txt")) if path not in expected)
        notes.add_all("label files without an image, passed over", (n for n in rest if n != "classes.txt"))
