"""Writing a dataset folder in another format, and splitting off images for validation."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image

from dyzoo.data.formats import coco, voc
from dyzoo.data.formats.lookup import SEPARATORS, is_unwritable
from dyzoo.data.formats.splits import split_kind
from dyzoo.data.formats.writers import MOST_NAME_BYTES, WRITERS, Named, Splits, check_names, image_folder
from dyzoo.data.records import Notes, Sample
from dyzoo.data.tools.folder import DatasetFolder, Track, open_folder, untracked
from dyzoo.data.tools.splitting import split_samples
from dyzoo.errors import DatasetError
from dyzoo.images.reading import IMAGE_SUFFIXES

FormatName = Literal["coco", "voc", "yolo"]

_MOST_OFFSET_PX = 0.02
_MOST_STEM_BYTES = MOST_NAME_BYTES - 20  # a suffix follows, and a number where two are alike
_YOLO_SPLITS = ("train", "val", "test")
_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "JPEG2000": ".jp2"}


@dataclass(frozen=True)
class Conversion:
    """The dataset folder that was written.

    Attributes:
        folder: the new dataset folder.
        images, boxes: their number in each split.
        notes: one line for each kind of thing that was left behind, mended or renamed.
    """

    folder: Path
    images: dict[str, int]
    boxes: dict[str, int]
    notes: list[str]


def convert_dataset(
    folder: str | Path,
    out: str | Path,
    to: FormatName = "coco",
    *,
    val_fraction: float | None = None,
    seed: int = 0,
    link: bool = False,
    track: Track = untracked,
) -> Conversion:
    """Write a dataset folder of any known format as COCO JSON, Pascal VOC or YOLO.

    Classes keep their names and their order, also those without boxes, and boxes stay where they are to a hundredth of
    a pixel. What `open_dataset` would drop is not carried over, nor are outlines, keypoints and attributes; the notes
    count what the new format cannot hold. Splits of usual names are called train, val and test.

    The folder is written aside, read back, compared, and then renamed: it is there as a whole or not at all.

    Args:
        folder: see `LAYOUT` of each format.
        out: the new folder; absent or empty.
        to: "coco", "voc" or "yolo".
        val_fraction: share of the training images, or of an unsplit folder, to set aside for validation: seeded, of
            every class alike, and files with the same bytes on one side. None keeps the splits there are.
        seed: decides which images are set aside.
        link: hard links to the images instead of copies.
        track: shows progress.

    Raises:
        DatasetError: the folder or one of its splits cannot be read or holds no usable object, `out` is taken, there is
            nothing to split, or the new format cannot hold the splits or a class name.
        OSError: the disk is full, or cannot be written to.
    """
    if to not in get_args(FormatName):
        raise DatasetError(f"format {to!r} is unknown, expected one of {', '.join(get_args(FormatName))}")
    folder, out = Path(folder), Path(out).resolve()
    if out == folder.resolve() or folder.resolve() in out.parents:
        raise DatasetError(f"{out} lies in the folder that is converted, expected a place outside {folder}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DatasetError(f"{out} is {'not empty' if out.is_dir() else 'a file'}, expected a new or empty folder")
    source = open_folder(folder, track=track)
    notes = [str(note) for split in source.splits for note in split.notes.items()]
    for split in source.splits:
        if split.fault is not None:
            raise DatasetError(split.fault)
    if not any((~sample.crowd).any() for split in source.splits for sample in split.samples):
        raise DatasetError(
            f"{folder} ({source.format_name}) holds no usable object: {'; '.join(notes) or 'it is empty'}"
        )
    _check_labels(source.labels)
    notes += [f"{name}: left out, it repeats images of the other splits" for name in source.left_out]

    losses = Notes()
    splits = _split(source, val_fraction, seed) if val_fraction is not None else _plain_splits(source)
    splits = _named_for_yolo(splits, losses) if to == "yolo" else splits
    named = _file_names(splits, to, losses)
    check_names(out, named)
    category_ids = _category_ids(source)
    _note_losses(source, named, to, losses)
    with _folder_aside(out) as aside:
        for name, images in named.items():
            target = aside / image_folder(to, name)
            target.mkdir(parents=True, exist_ok=True)
            for sample, file_name in track(images, f"{'linking' if link else 'copying'} {name}", len(images)):
                _place(sample.image_path, target / file_name, link)
        WRITERS[to](aside, named, source.labels, category_ids)
        _compare(open_folder(aside, track=track), named, source.labels, to)
    return Conversion(
        out,
        {name: len(images) for name, images in named.items()},
        {name: sum(int(_held(sample, to).sum()) for sample, _ in images) for name, images in named.items()},
        notes + losses.lines(),
    )


def _check_labels(labels: Sequence[str]) -> None:
    for name in labels:
        if any(map(is_unwritable, name)):
            raise DatasetError(f"class name {name!r} has characters that label files cannot hold: rename it")


def _plain_splits(source: DatasetFolder) -> dict[str, list[Sample]]:
    """Under the plain name of their kind, unless two are of one kind."""
    kinds = Counter(split_kind(split.name) for split in source.splits)
    return {
        (kind if (kind := split_kind(split.name)) and kinds[kind] == 1 else split.name): split.samples
        for split in source.splits
    }


def _split(source: DatasetFolder, fraction: float, seed: int) -> dict[str, list[Sample]]:
    splits = _plain_splits(source)
    if validation := [name for name in splits if split_kind(name) == "val"]:
        raise DatasetError(f"{source.path} has a split for validation already, {validation[0]}: convert it unsplit")
    whole = [name for name in splits if split_kind(name) == "train"] or list(splits)
    if len(whole) > 1:
        raise DatasetError(f"{source.path} has several splits, {', '.join(whole)}: none of them is the one to split")
    train, val = split_samples(splits.pop(whole[0]), fraction, seed)
    return {"train": train, "val": val, **splits}


def _named_for_yolo(splits: dict[str, list[Sample]], losses: Notes) -> dict[str, list[Sample]]:
    unknown = [name for name in splits if name not in _YOLO_SPLITS]
    if unknown and len(splits) == 1:
        losses.add("splits that YOLO has no word for, called train", unknown[0])
        return {"train": splits[unknown[0]]}
    if unknown:
        raise DatasetError(f"YOLO's splits are {', '.join(_YOLO_SPLITS)}, it cannot hold {', '.join(unknown)}")
    return splits


def _file_names(splits: Mapping[str, Sequence[Sample]], to: str, losses: Notes) -> dict[str, list[Named]]:
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
        with Image.open(path) as image:
            suffix = _SUFFIXES.get(image.format or "", f".{(image.format or 'png').lower()}")
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


def _category_ids(source: DatasetFolder) -> tuple[int, ...]:
    """COCO's own if they tell the order; 1, 2, 3 and so on otherwise."""
    ids = source.category_ids
    if source.format_name == coco.NAME and list(ids) == sorted(set(ids)):
        return ids
    return tuple(range(1, len(ids) + 1))


def _note_losses(source: DatasetFolder, named: Splits, to: str, losses: Notes) -> None:
    from_coco = source.format_name == coco.NAME
    ids = source.category_ids
    if from_coco and to == "yolo" and ids != tuple(range(len(ids))):
        losses.add("category ids that become places in the list of names, from 0", ", ".join(map(str, ids)))
    if from_coco and to == "voc" and ids != tuple(range(1, len(ids) + 1)):
        losses.add("category ids that Pascal VOC cannot hold", ", ".join(map(str, ids)))
    for images in named.values():
        for sample, file_name in images:
            for _ in range(int(sample.crowd.sum())):
                if to == "yolo":
                    losses.add("crowd regions and difficult objects, which YOLO cannot hold, left out", file_name)
                elif to == "coco" and source.format_name == voc.NAME:
                    losses.add("difficult objects, written as crowd regions", file_name)
                elif to == "voc" and from_coco:
                    losses.add("crowd regions, written as difficult objects", file_name)


@contextmanager
def _folder_aside(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`; on success it is renamed to `path`, on an exception it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    if aside.exists():  # what a killed process left
        shutil.rmtree(aside)
    try:
        aside.mkdir()
        yield aside
        if hasattr(os, "sync"):
            os.sync()  # once for all files
        aside.replace(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


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


def _held(sample: Sample, to: str) -> np.ndarray:
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
            if not _all_there(sample, _held(sample, to), found[split][file_name]):
                raise DatasetError(f"{sample.image_path}: its objects do not all read back: please report this")


def _all_there(sample: Sample, held: np.ndarray, written: Sample) -> bool:
    """Whether each object is there; boxes less than a tenth of a pixel wide may be lost in rounding."""
    boxes = sample.boxes_xyxy[held]
    offset = np.abs(boxes[:, None] - written.boxes_xyxy[None]).max(axis=2)  # (M, K)
    same = sample.labels[held][:, None] == written.labels[None]
    matched = ((offset < _MOST_OFFSET_PX) & same).any(axis=1)
    sliver = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) < 0.1
    return bool((matched | sliver).all())
