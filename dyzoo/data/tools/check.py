"""Everything about a dataset folder that spoils training or its measurement, before an hour is spent on it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import numpy as np

from dyzoo.data.formats.splits import split_kind
from dyzoo.data.formats.walking import images_below
from dyzoo.data.records import Notes
from dyzoo.data.small import SMALL_PX, sides_in_training
from dyzoo.data.tools.coinciding import coinciding
from dyzoo.data.tools.fingerprints import group_by_content, nearest, thumbnail
from dyzoo.data.tools.folder import DatasetFolder, Split, Track, open_folder, untracked
from dyzoo.data.tools.report import SHEET_NAME, DatasetReport, Finding
from dyzoo.data.tools.statistics import SplitStatistics, count
from dyzoo.errors import ImageError

_COINCIDING_IOU = 0.9
_MOST_COMPARED = 20_000  # objects of one image; those of a million would be compared for hours
_IMBALANCE = 10.0
_THREADS = 8


def check_dataset(
    folder: str | Path,
    split: str | None = None,
    *,
    size_px: tuple[int, int] = (800, 1333),
    track: Track = untracked,
) -> DatasetReport:
    """Look for all that is suspicious in a dataset folder. Every image is read as a whole.

    Found are: what `open_dataset` drops or mends (boxes without area, outside, given twice; absent images; label files
    without image; ...), damaged images, the same picture in two splits or twice in one, by its bytes or nearly,
    boxes that almost coincide, classes that a split lacks, hardly has or spells in two ways, tiny boxes, images
    without objects, image files that nothing lists, and a missing validation split.

    Args:
        folder: see `LAYOUT` of each format.
        split: look at this one alone; None looks at all.
        size_px: shortest and longest edge of images in training; see `dyzoo.model.preprocess.resized_size`.
        track: shows progress.

    Returns:
        The report; `report.usable` says whether there is anything to train on.

    Raises:
        DatasetError: no such folder, format or split.
    """
    source = open_folder(Path(folder), split, track)
    statistics = tuple(count(each.name, each.samples, len(source.labels)) for each in source.splits)
    findings = [
        *(Finding(None, f"split {each.name} cannot be read", 1, (each.fault,)) for each in source.splits if each.fault),
        *_pictures(source, track),
        *(finding for each in source.splits for finding in _of_notes(each.notes, each.name)),
        *(finding for each in source.splits for finding in _boxes(each, source.labels, size_px)),
        *_classes(source, statistics),
        *(finding for each in source.splits for finding in _empty_images(each)),
        *(_unlisted(source) if split is None else ()),
        *(_missing_split(source) if split is None else ()),
    ]
    return DatasetReport(source, statistics, tuple(findings))


def _of_notes(notes: Notes, split: str | None) -> Iterator[Finding]:
    for note in notes.items():
        yield Finding(split, note.kind, note.count, note.examples, note.images)


def _pictures(source: DatasetFolder, track: Track) -> list[Finding]:
    """Damaged images, and pictures that are there more than once."""
    paths = list(dict.fromkeys(sample.image_path for split in source.splits for sample in split.samples))
    thumbnails: dict[Path, np.ndarray] = {}
    faults: dict[Path, str] = {}
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        results = pool.map(_try_thumbnail, paths)
        for path, result in zip(paths, track(results, "reading images", len(paths)), strict=True):
            if isinstance(result, str):
                faults[path] = result
            else:
                thumbnails[path] = result
    content_of = {path: number for number, group in enumerate(group_by_content(paths)) for path in group}
    damaged, shared, twice = Notes(), Notes(), Notes()
    whole = {split.name: _distinct_paths(split) for split in source.splits}
    for name, of_split in whole.items():
        for path in of_split:
            if path in faults:
                damaged.add(f"images of {name} that cannot be read", faults[path], path)
    for (first, first_paths), (second, second_paths) in combinations(whole.items(), 2):
        known = {content_of[path]: path for path in reversed(first_paths)}
        same = {path: known[content_of[path]] for path in second_paths if content_of[path] in known}
        same |= {path: path for path in first_paths if path in same}
        for path, twin in same.items():
            shared.add(f"images of {second} that are also in {first}, byte for byte", _pair(path, twin, source), path)
        rest = [path for path in second_paths if path not in same]
        comparison = f"comparing images of {second} and {first}"
        for path, twin in _near(rest, first_paths, thumbnails, comparison, track):
            shared.add(f"images of {second} that look almost like one of {first}", _pair(path, twin, source), path)
    for name, of_split in whole.items():
        first_of: dict[int, Path] = {}
        for path in of_split:
            twin = first_of.setdefault(content_of[path], path)
            if twin != path:
                twice.add(f"images of {name} that are there twice, byte for byte", _pair(path, twin, source), path)
        for path, twin in _near(list(first_of.values()), None, thumbnails, f"comparing images of {name}", track):
            twice.add(f"images of {name} that look almost like another", _pair(path, twin, source), path)
    return [finding for notes in (damaged, shared, twice) for finding in _of_notes(notes, None)]


def _try_thumbnail(path: Path) -> np.ndarray | str:
    try:
        return thumbnail(path)
    except ImageError as error:
        return str(error)


def _distinct_paths(split: Split) -> list[Path]:
    return list(dict.fromkeys(sample.image_path for sample in split.samples))


def _near(
    paths: Sequence[Path],
    others: Sequence[Path] | None,
    thumbnails: dict[Path, np.ndarray],
    description: str,
    track: Track,
) -> Iterator[tuple[Path, Path]]:
    """Images of `paths` with one of `others`, or an earlier one of their own, that shows nearly the same picture."""
    paths = [path for path in paths if path in thumbnails]
    others = None if others is None else [path for path in others if path in thumbnails]
    if not paths or others == []:
        return
    rows = np.stack([thumbnails[path] for path in paths])
    other_rows = None if others is None else np.stack([thumbnails[path] for path in others])
    twins = nearest(rows, other_rows, description, track)
    for path, twin in zip(paths, twins.tolist(), strict=True):
        if twin >= 0:
            yield path, (paths if others is None else others)[twin]


def _pair(path: Path, twin: Path, source: DatasetFolder) -> str:
    return path.name if path == twin else f"{source.relative(path)} = {source.relative(twin)}"


def _boxes(split: Split, labels: Sequence[str], size_px: tuple[int, int]) -> list[Finding]:
    notes = Notes()
    for sample in split.samples:
        kept = ~sample.crowd
        boxes, classes = sample.boxes_xyxy[kept], sample.labels[kept]
        if len(boxes) > _MOST_COMPARED:
            kind = f"images of more than {_MOST_COMPARED} objects, of which only so many are compared"
            notes.add(kind, f"{len(boxes)} in {sample.image_path.name}", sample.image_path)
        for first, second in coinciding(boxes[:_MOST_COMPARED], _COINCIDING_IOU):
            names = sorted({labels[classes[first]], labels[classes[second]]})
            what = "one class" if len(names) == 1 else "two classes"
            at = " ".join(f"{edge:g}" for edge in boxes[second].tolist())
            example = f"{' and '.join(names)} in {sample.image_path.name} at {at}"
            notes.add(f"boxes of {what} that almost coincide", example, sample.image_path)
        for sides, label in zip(sides_in_training(sample, size_px).tolist(), classes.tolist(), strict=True):
            if min(sides) < SMALL_PX:
                size = "x".join(f"{side:.1f}" for side in sides)
                kind = f"boxes narrower than {SMALL_PX} px in training, at a shortest edge of {size_px[0]} px"
                notes.add(kind, f"{labels[label]} of {size} in {sample.image_path.name}", sample.image_path)
    return list(_of_notes(notes, split.name))


def _classes(source: DatasetFolder, statistics: Sequence[SplitStatistics]) -> Iterator[Finding]:
    total = np.sum([each.boxes_of_class for each in statistics], axis=0).astype(int)
    if absent := [name for name, number in zip(source.labels, total, strict=True) if number == 0]:
        yield _finding(None, "classes without a box", absent)
    for each in statistics:
        lacking = [
            f"{name} ({number} elsewhere)"
            for name, number, here in zip(source.labels, total, each.boxes_of_class, strict=True)
            if number and not here
        ]
        if lacking and each.num_boxes:
            yield _finding(each.name, "classes that only other splits show", lacking)
    present = [(int(number), name) for name, number in zip(source.labels, total, strict=True) if number]
    if present and max(present)[0] > _IMBALANCE * min(present)[0]:
        most, common = max(present)
        rare = [f"{name}: {number}" for number, name in sorted(present) if most > _IMBALANCE * number]
        yield _finding(None, f"classes with less than a tenth of the {most} boxes of {common}", rare)
    spellings: dict[str, list[str]] = {}
    for name in source.labels:
        spellings.setdefault("".join(filter(str.isalnum, name)).casefold() or name, []).append(name)
    if alike := [" / ".join(names) for names in spellings.values() if len(names) > 1]:
        yield _finding(None, "classes that differ in spelling alone", alike)


def _empty_images(split: Split) -> Iterator[Finding]:
    empty = [sample.image_path for sample in split.samples if not (~sample.crowd).any()]
    if empty:
        yield _finding(split.name, "images without objects", [path.name for path in empty], empty)


def _unlisted(source: DatasetFolder) -> Iterator[Finding]:
    """Images that no label file speaks of, and none of the notes."""
    known = {sample.image_path.resolve() for split in source.splits for sample in split.samples}
    known |= {path.resolve() for split in source.splits for note in split.notes.items() for path in note.images}
    if all(split.fault is None for split in source.splits):
        rest = [p for p in images_below(source.path) if p.resolve() not in known and p.name != SHEET_NAME]
        if rest:
            yield _finding(None, "image files that belong to no split", [source.relative(path) for path in rest], rest)


def _missing_split(source: DatasetFolder) -> Iterator[Finding]:
    if not any(split_kind(split.name) == "val" for split in source.splits):
        way_out = f"`dyzoo data convert {source.path} OUT --split 0.2` makes train and val"
        yield Finding(None, "no split for validation", 1, (way_out,))


def _finding(split: str | None, kind: str, examples: Sequence[str], images: Sequence[Path] = ()) -> Finding:
    notes = Notes()
    notes.add_all(kind, examples)
    (note,) = notes.items()
    return Finding(split, kind, note.count, note.examples, tuple(images))
