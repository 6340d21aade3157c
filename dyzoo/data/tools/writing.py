"""Writing a whole dataset folder: aside, read back and compared, then renamed; it is there as a whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from dyzoo.data.formats.lookup import SEPARATORS, is_unwritable
from dyzoo.data.formats.writers import MOST_NAME_BYTES, WRITERS, Named, Splits, check_names, image_folder
from dyzoo.data.records import Notes, Sample
from dyzoo.data.tools.folder import DatasetFolder, Track, open_folder, untracked
from dyzoo.errors import DatasetError
from dyzoo.files import folder_aside
from dyzoo.images.finding import IMAGE_SUFFIXES
from dyzoo.images.reading import read_image_format

FormatName = Literal["coco", "voc", "yolo"]

_MOST_OFFSET_PX = 0.02
_MOST_STEM_BYTES = MOST_NAME_BYTES - 20  # a suffix follows, and a number where two are alike
_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "JPEG2000": ".jp2"}


def write_folder(
    out: Path,
    named: Splits,
    labels: Sequence[str],
    category_ids: Sequence[int],
    to: FormatName,
    *,
    link: bool = False,
    track: Track = untracked,
) -> None:
    """Write images and label files of every split to the new folder `out`.

    Args:
        out: absent or empty.
        named: the samples of each split with the names that `file_names` gives their images.
        labels, category_ids: the classes, and the number of each in the label files.
        to: "coco", "voc" or "yolo".
        link: hard links to the images instead of copies.
        track: shows progress.

    Raises:
        DatasetError: a split or an image has a name that does not stay in `out`, or an image cannot be linked.
        OSError: the disk is full, or cannot be written to.
    """
    check_names(out, named)
    with folder_aside(out) as aside:
        place_images(aside, named, to, link, track)
        WRITERS[to](aside, named, labels, category_ids)
        _compare(open_folder(aside, track=track), named, labels, to)


def check_labels(labels: Sequence[str]) -> None:
    """Raise `DatasetError` if a class name has characters that label files cannot hold."""
    for name in labels:
        if any(map(is_unwritable, name)):
            raise DatasetError(f"class name {name!r} has characters that label files cannot hold: rename it")


def file_names(splits: Mapping[str, Sequence[Sample]], to: str, losses: Notes) -> dict[str, list[Named]]:
    """A file name for every image, with a stem of its own among those in one folder, whatever the case."""
    taken: dict[Path, set[str]] = {}
    shared: dict[tuple[Path, Path], tuple[str, Named]] = {}  # an image that two lists of one folder name
    named: dict[str, list[Named]] = {}
    for split, samples in splits.items():
        where = image_folder(to, split)
        stems = taken.setdefault(where, set())
        named[split] = []
        for sample in samples:
            other, twin = shared.get((where, sample.image_path), (split, None))
            if twin is not None and other != split and _same_objects(twin.sample, sample):
                named[split].append(Named(sample, twin.file_name))
                continue
            new = Named(sample, _file_name(sample.image_path, stems))
            shared[where, sample.image_path] = split, new
            named[split].append(new)
            if new.file_name != sample.image_path.name:
                losses.add("images renamed", f"{sample.image_path.name} -> {new.file_name}")
    return named


def _same_objects(first: Sample, second: Sample) -> bool:
    arrays = ("boxes_xyxy", "labels", "crowd")
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in arrays)


def _file_name(path: Path, taken: set[str]) -> str:
    """Adds its stem to `taken`."""
    suffix = path.suffix
    if suffix.lower() not in IMAGE_SUFFIXES:
        image_format = read_image_format(path)
        suffix = _SUFFIXES.get(image_format, f".{image_format.lower()}")
    # What some file system, a list of names with one on each line, or a reader that looks for a suffix stumbles over.
    stem = "".join("_" if each in SEPARATORS or is_unwritable(each) else each for each in path.stem)
    stem = re.sub(r"^\.", "_", stem.encode()[:_MOST_STEM_BYTES].decode(errors="ignore").strip())
    if Path(stem).suffix.lower() in IMAGE_SUFFIXES:
        stem = "_".join(stem.rsplit(".", 1))
    stem = stem or "_"
    unique, number = stem, 2
    while unique.casefold() in taken:
        unique, number = f"{stem}_{number}", number + 1
    taken.add(unique.casefold())
    return unique + suffix


def place_images(folder: Path, named: Splits, to: str, link: bool = False, track: Track = untracked) -> None:
    """Copy or link the images of every split to their place in `folder`, below which they have plain names.

    Raises:
        DatasetError: an image cannot be linked.
        OSError: an image cannot be read, or the disk is full.
    """
    for name, images in named.items():
        target = folder / image_folder(to, name)
        target.mkdir(parents=True, exist_ok=True)
        for sample, file_name in track(images, f"{'linking' if link else 'copying'} {name}", len(images)):
            _place(sample.image_path, target / file_name, link)


def _place(source: Path, target: Path, link: bool) -> None:
    if target.exists():  # two lists name it
        return
    if not link:
        shutil.copyfile(source, target)
        return
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        raise DatasetError(f"{source} cannot be linked to {target.parent}: {error.strerror}; copy the images") from None


def held(sample: Sample, to: str) -> np.ndarray:
    """(M,) bool: which objects the format can hold."""
    return ~sample.crowd if to == "yolo" else np.ones_like(sample.crowd)


def _compare(written: DatasetFolder, named: Splits, labels: Sequence[str], to: str) -> None:
    """Every image and object has come back. Raises `DatasetError` if not, which no input should bring about."""
    if written.labels != tuple(labels):
        raise DatasetError(f"classes {', '.join(labels)} read back as {', '.join(written.labels)}: please report this")
    found = {split.name: {sample.image_path.name: sample for sample in split.samples} for split in written.splits}
    for split, images in named.items():
        if found.get(split, {}).keys() != {file_name for _, file_name in images}:
            raise DatasetError(f"the images of {split} do not all read back: please report this")
        for sample, file_name in images:
            if not _all_there(sample, held(sample, to), found[split][file_name]):
                raise DatasetError(f"{sample.image_path}: its objects do not all read back: please report this")


def _all_there(sample: Sample, held: np.ndarray, written: Sample) -> bool:
    """Whether each object is there; boxes less than a tenth of a pixel wide may be lost in rounding."""
    boxes = sample.boxes_xyxy[held]
    offset = np.abs(boxes[:, None] - written.boxes_xyxy[None]).max(axis=2)  # (M, K)
    same = sample.labels[held][:, None] == written.labels[None]
    matched = ((offset < _MOST_OFFSET_PX) & same).any(axis=1)
    sliver = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) < 0.1
    return bool((matched | sliver).all())
