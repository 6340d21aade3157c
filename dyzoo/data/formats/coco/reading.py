"""Reading a COCO file: its images, its categories and its annotations, each checked against the others."""

from __future__ import annotations

import json
import reprlib
from collections import Counter
from collections.abc import Iterator, Set
from functools import partial
from pathlib import Path

from dyzoo.data.formats.coco.rows import (
    Corners,
    Ids,
    Row,
    area_of,
    as_number,
    corners_around,
    corners_of,
    is_crowd,
    masks_of_datumaro,
)
from dyzoo.data.formats.lookup import find_by_tail, find_file, leads_outside, read_regular
from dyzoo.data.formats.shares import mark_shares
from dyzoo.data.formats.splits import FoundSplit, split_kind
from dyzoo.data.records import ImageRecord, Notes, ObjectRecord, SplitRecord
from dyzoo.errors import DatasetError, first_line

NAME = "COCO JSON"
LAYOUT = "annotations/instances_<split>.json with images in <split>/, or <split>/_annotations.coco.json"

_BESIDE_IMAGES = "_annotations.coco.json"  # Roboflow's name for it
_MOST_BYTES = 1 << 31  # a JSON file takes some ten times as much memory; COCO's own have 450 MB


def find_splits(folder: Path) -> dict[str, FoundSplit]:
    """The splits by name, each with its JSON file; none if this is not COCO."""
    files = _find_files(folder)
    return {name: FoundSplit(path, partial(_read, folder, name, path)) for name, path in files.items()}


def _find_files(folder: Path) -> dict[str, Path]:
    if beside_images := {path.parent.name: path for path in sorted(folder.glob(f"*/{_BESIDE_IMAGES}"))}:
        return beside_images
    files = sorted((folder / "annotations").glob("*.json")) or sorted(folder.glob("*.json"))
    # Where there are instances, files such as `captions_train2017.json` hold something else.
    files = [path for path in files if path.stem.startswith("instances_")] or files
    return {"all" if path.name == _BESIDE_IMAGES else path.stem.removeprefix("instances_"): path for path in files}


def _read(folder: Path, split: str, source: Path, notes: Notes) -> SplitRecord:
    """Read the JSON file of a split. Image ids are those of the file; what is no whole number gets one.

    Raises:
        DatasetError: the file is not JSON, or not COCO, or its boxes have another meaning than COCO's.
    """
    try:
        return _record(folder, split, source, notes)
    except RecursionError:
        raise DatasetError(f"{source} holds values within values within values, expected a COCO file") from None


def _record(folder: Path, split: str, source: Path, notes: Notes) -> SplitRecord:
    tables = _load_tables(source, notes)
    categories, names = _category_names(tables, notes)
    ids = Ids(tables["images"])
    notes.add_all(
        "image ids that are no whole numbers, numbered anew", (f"{old}: {new}" for old, new in ids.renamed.items())
    )
    images, image_ids = _read_images(tables["images"], ids, _image_folders(folder, split, source), notes)
    objects = _objects(tables, categories, names, ids, images, image_ids, notes)
    for image_id, each in objects:
        images[image_id].objects.append(each)
    category_ids: dict[str, int] = {}
    for category_id in sorted(names):
        if category_ids.setdefault(names[category_id], category_id) != category_id:
            notes.add("category names with two ids, taken as one class", names[category_id])
    marked = mark_shares(list(images.values()), source, notes)
    return SplitRecord(marked, tuple(category_ids), tuple(category_ids.values()))


def _load_tables(path: Path, notes: Notes) -> dict[str, list[Row]]:
    try:
        content = json.loads(read_regular(path, _MOST_BYTES))
    except FileNotFoundError:
        raise DatasetError(f"{path} leads nowhere, expected a COCO file") from None
    except DatasetError:
        raise
    except MemoryError:
        raise DatasetError(f"{path} takes more memory than there is: divide it") from None
    except (ValueError, RecursionError) as error:  # ValueError: of JSON's grammar or of its text encoding
        raise DatasetError(f"{path} is not JSON, or cut short: {first_line(error)}") from None
    if not isinstance(content, dict):
        raise DatasetError(f"{path} holds a {type(content).__name__}, expected an object: {LAYOUT}")
    tables = {}
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise DatasetError(f"{path} has no list of {key!r}, expected images, annotations and categories")
        tables[key] = [row for row in content[key] if isinstance(row, dict)]
        notes.add_all(
            f"{key} that are not objects, dropped", (row for row in content[key] if not isinstance(row, dict))
        )
    return tables


def _category_names(tables: dict[str, list[Row]], notes: Notes) -> tuple[Ids, dict[int, str]]:
    ids = Ids(tables["categories"])
    names: dict[int, str] = {}
    for row in tables["categories"]:
        category_id, name = ids.number(row.get("id")), row.get("name")
        if category_id is None or not isinstance(name, str) or not name.strip():
            notes.add("categories without an id or a name, dropped", row)
        elif names.setdefault(category_id, name.strip()) != name.strip():
            notes.add("category ids given twice, first name kept", f"{category_id}: {names[category_id]}, not {name}")
    for category_id in names.keys() & _mere_parents(tables, ids):
        notes.add("categories that only group others, dropped", names.pop(category_id))
    return ids, names


def _mere_parents(tables: dict[str, list[Row]], ids: Ids) -> set[int | None]:
    """Roboflow puts the project's name before the classes, as the parent of all of them and with no box of its own."""
    rows = [row for row in tables["categories"] if isinstance(row.get("name"), str)]
    parents = {parent for row in rows if isinstance(parent := row.get("supercategory"), str)}
    roots = [row for row in rows if row.get("supercategory") == "none" and row["name"] in parents]
    used = {ids.number(row.get("category_id")) for row in tables["annotations"]} if roots else set()
    return {ids.number(row.get("id")) for row in roots} - used


def _read_images(
    rows: list[Row], ids: Ids, folders: list[Path], notes: Notes
) -> tuple[dict[int, ImageRecord], dict[int, int]]:
    """The usable images by id, and for every id of the file the id that its image goes by."""
    images: dict[int, ImageRecord] = {}
    image_ids: dict[int, int] = {}
    files: dict[int, str] = {}
    ids_of_files: dict[str, int] = {}
    elsewhere: dict[int, Row] = {}
    for row in rows:
        image_id, name = ids.number(row.get("id")), row.get("file_name")
        if image_id is None or not isinstance(name, str):
            notes.add("images without an id or a file name, dropped", row)
            continue
        if image_id in files:
            same = files[image_id] == name
            kind = "images listed twice, taken once" if same else "image ids given to another file, dropped"
            notes.add(kind, f"{image_id}: {name}")
            continue
        files[image_id] = name
        image_ids[image_id] = ids_of_files.setdefault(name, image_id)
        if image_ids[image_id] != image_id:
            notes.add("files listed under two ids, taken as one image", name)
            continue
        path = None if leads_outside(name) else find_file(name, folders)
        if path is None:
            elsewhere[image_id] = row
        else:
            images[image_id] = ImageRecord(path, image_id, [], _claimed_size(row))
    images.update(_find_elsewhere(elsewhere, folders, {image.path for image in images.values()}, notes))
    return {image_id: images[image_id] for image_id in image_ids if image_id in images}, image_ids


def _find_elsewhere(
    rows: dict[int, Row], folders: list[Path], taken: Set[Path], notes: Notes
) -> dict[int, ImageRecord]:
    """Images that do not lie where the label file says, by the end of the path it gives."""
    paths = {image_id: find_by_tail(row["file_name"], folders) for image_id, row in rows.items()}
    counts = Counter([*taken, *filter(None, paths.values())])
    images = {}
    for image_id, row in rows.items():
        path, name = paths[image_id], row["file_name"]
        if path is None:
            outside = "images outside the dataset folder, refused"
            notes.add(outside if leads_outside(name) else "images absent on disk, dropped", name)
        elif counts[path] > 1:
            notes.add("images whose name fits several entries, dropped", name)
        else:
            notes.add("images not where the label file says, found by name", name)
            images[image_id] = ImageRecord(path, image_id, [], _claimed_size(row))
    return images


def _objects(
    tables: dict[str, list[Row]],
    categories: Ids,
    names: dict[int, str],
    ids: Ids,
    images: dict[int, ImageRecord],
    image_ids: dict[int, int],
    notes: Notes,
) -> Iterator[tuple[int, ObjectRecord]]:
    """The id of the image and the object of each usable annotation."""
    single = _single_masks(tables, notes)
    seen: dict[int | str, Row] = {}
    for row in tables["annotations"]:
        annotation_id, image_id = row.get("id"), ids.number(row.get("image_id"))
        number, category_id = as_number(annotation_id), categories.number(row.get("category_id"))
        what = f"annotation {_shown(annotation_id)}"
        key = annotation_id if number is None and isinstance(annotation_id, str) else number
        if key is not None and seen.setdefault(key, row) is not row:
            if seen[key] == row:
                notes.add("annotations listed twice, taken once", what)
                continue
            notes.add("annotation ids given to different objects, all kept", what)
        if image_id not in image_ids:
            notes.add("annotations of unknown images, dropped", f"{what}, image_id {_shown(row.get('image_id'))}")
        elif category_id not in names:
            example = f"{what}, category_id {_shown(row.get('category_id'))}"
            notes.add("annotations of unknown categories, dropped", example)
        elif (corners := _corners(row, images.get(image_ids[image_id]), what, notes)) and image_ids[image_id] in images:
            crowd = is_crowd(row) and id(row) not in single
            yield image_ids[image_id], ObjectRecord(names[category_id], corners, crowd, area_of(row))


def _corners(row: Row, image: ImageRecord | None, what: str, notes: Notes) -> Corners | None:
    """The annotation's box, or else the one around its outline."""
    if corners := corners_of(row.get("bbox")):
        return corners
    corners = corners_around(row.get("segmentation"), image.claimed_size if image else None)
    notes.add(
        f"annotations without a bbox of four numbers, {'taken around their outline' if corners else 'dropped'}", what
    )
    return corners


def _single_masks(tables: dict[str, list[Row]], notes: Notes) -> set[int]:
    """The `id()` of each annotation that is a single object though it is marked as a crowd.

    datumaro does not tell masks of one object from crowds. Crowds are the exception (one in eighty of COCO's), so a
    file that mostly has such marks has masks.
    """
    masks = list(masks_of_datumaro(tables["images"], tables["annotations"]))
    single = 2 * len(masks) > len(tables["annotations"])
    way = "taken as single objects" if single else "left out of training as crowds"
    notes.add_all(
        f"masks, which datumaro and CVAT mark as crowds, {way}",
        (f"annotation {_shown(row.get('id'))}" for row in masks),
    )
    return {id(row) for row in masks} if single else set()


def _shown(value: object) -> str:
    return str(value) if isinstance(value, str | int | float) else reprlib.repr(value)


def _claimed_size(row: Row) -> tuple[int, int] | None:
    width, height = row.get("width"), row.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) and min(width, height) > 0 else None


def _image_folders(folder: Path, split: str, source: Path) -> list[Path]:
    """Where the images of a split may lie, the likeliest first."""
    parents = [folder, folder / "images"]
    children = [child for parent in parents if parent.is_dir() for child in sorted(parent.iterdir()) if child.is_dir()]
    kind = split_kind(split)
    same_kind = [child for child in children if kind and split_kind(child.name) == kind]
    beside = [source.parent] if source.name == _BESIDE_IMAGES else []
    return [*beside, *(parent / split for parent in parents), *same_kind, *reversed(parents)]
