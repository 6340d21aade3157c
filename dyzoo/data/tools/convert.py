"""Writing a dataset folder in another format, and splitting off images for validation."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from dyzoo.data.formats import coco, voc
from dyzoo.data.formats.splits import split_kind
from dyzoo.data.formats.writers import Splits
from dyzoo.data.records import Notes, Sample
from dyzoo.data.tools.folder import DatasetFolder, Track, open_folder, untracked
from dyzoo.data.tools.splitting import split_samples
from dyzoo.data.tools.writing import FormatName, check_labels, file_names, held, write_folder
from dyzoo.errors import DatasetError
from dyzoo.files import check_is_new

_YOLO_SPLITS = ("train", "val", "test")


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
    check_is_new(out, DatasetError)
    source = open_folder(folder, track=track)
    notes = [str(note) for split in source.splits for note in split.notes.items()]
    for split in source.splits:
        if split.fault is not None:
            raise DatasetError(split.fault)
    if not any((~sample.crowd).any() for split in source.splits for sample in split.samples):
        raise DatasetError(
            f"{folder} ({source.format_name}) holds no usable object: {'; '.join(notes) or 'it is empty'}"
        )
    check_labels(source.labels)
    notes += [f"{name}: left out, it repeats images of the other splits" for name in source.left_out]

    losses = Notes()
    splits = _split(source, val_fraction, seed) if val_fraction is not None else _plain_splits(source)
    splits = _named_for_yolo(splits, losses) if to == "yolo" else splits
    named = file_names(splits, to, losses)
    category_ids = _category_ids(source)
    _note_losses(source, named, to, losses)
    write_folder(out, named, source.labels, category_ids, to, link=link, track=track)
    return Conversion(
        out,
        {name: len(images) for name, images in named.items()},
        {name: sum(int(held(sample, to).sum()) for sample, _ in images) for name, images in named.items()},
        notes + losses.lines(),
    )


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
