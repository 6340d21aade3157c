"""COCO: one JSON file with the images, the categories and the boxes of a split.

Category ids may have gaps; labels follow the order of the ids, which are kept for export. `iscrowd` annotations
become crowd regions: left out of training, ignored by evaluation.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Set
from pathlib import Path
from typing import Any

from dyzoo.data.lookup import find_by_tail, find_file, leads_outside
from dyzoo.data.records import ImageRecord, Notes, ObjectRecord, SplitRecord
from dyzoo.data.splits import split_kind
from dyzoo.errors import DatasetError

NAME = "COCO JSON"
LAYOUT = "annotations/instances_<split>.json with images in <split>/, or <split>/_annotations.coco.json"

_BESIDE_IMAGES = "_annotations.coco.json"  # Roboflow's name for it

Row = dict[str, Any]


def find_splits(folder: Path) -> dict[str, Path]:
    """Split name -> its JSON file; empty if this is not COCO."""
    if beside_images := {path.parent.name: path for path in sorted(folder.glob(f"*/{_BESIDE_IMAGES}"))}:
        return beside_images
    files = sorted((folder / "annotations").glob("*.json")) or sorted(folder.glob("*.json"))
    # Where there are instances, files such as `captions_train2017.json` hold something else.
    files = [path for path in files if path.stem.startswith("instances_")] or files
    return {"all" if path.name == _BESIDE_IMAGES else path.stem.removeprefix("instances_"): path for path in files}


def read(folder: Path, split: str, notes: Notes) -> SplitRecord:
    """Read one of `find_splits`. Image ids are those of the file.

    Raises:
        DatasetError: the file is not JSON, or not COCO.
    """
    source = find_splits(folder)[split]
    tables = _load_tables(source, notes)
    names = _category_names(tables, notes)
    images, image_ids = _read_images(tables["images"], _image_folders(folder, split, source), notes)
    _read_annotations(tables["annotations"], names, images, image_ids, notes)
    category_ids: dict[str, int] = {}
    for category_id in sorted(names):
        if category_ids.setdefault(names[category_id], category_id) != category_id:
            notes.add("category names with two ids, taken as one class", names[category_id])
    return SplitRecord(list(images.values()), tuple(category_ids), tuple(category_ids.values()))


def _load_tables(path: Path, notes: Notes) -> dict[str, list[Row]]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # ValueError: of JSON's grammar or of its text encoding
        raise DatasetError(f"{path} is not JSON, or cut short: {error}") from None
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


def _category_names(tables: dict[str, list[Row]], notes: Notes) -> dict[int, str]:
    names: dict[int, str] = {}
    for row in tables["categories"]:
        category_id, name = _as_id(row.get("id")), row.get("name")
        if category_id is None or not isinstance(name, str) or not name.strip():
            notes.add("categories without an id or a name, dropped", row)
        elif names.setdefault(category_id, name.strip()) != name.strip():
            notes.add("category ids given twice, first name kept", f"{category_id}: {names[category_id]}, not {name}")
    for category_id in names.keys() & _mere_parents(tables):
        notes.add("categories that only group others, dropped", names.pop(category_id))
    return names


def _mere_parents(tables: dict[str, list[Row]]) -> set[int | None]:
    """Roboflow puts the project's name before the classes, as the parent of all of them and with no box of its own."""
    parents = [row.get("supercategory") for row in tables["categories"]]
    roots = [row for row in tables["categories"] if row.get("supercategory") == "none" and row.get("name") in parents]
    used = {_as_id(row.get("category_id")) for row in tables["annotations"]}
    return {_as_id(row.get("id")) for row in roots} - used


def _read_images(rows: list[Row], folders: list[Path], notes: Notes) -> tuple[dict[int, ImageRecord], dict[int, int]]:
    """The usable images by id, and for every id of the file the id that its image goes by."""
    images: dict[int, ImageRecord] = {}
    image_ids: dict[int, int] = {}
    files: dict[int, str] = {}
    ids_of_files: dict[str, int] = {}
    elsewhere: dict[int, Row] = {}
    for row in rows:
        image_id, name = _as_id(row.get("id")), row.get("file_name")
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


def _read_annotations(
    rows: list[Row], names: dict[int, str], images: dict[int, ImageRecord], image_ids: dict[int, int], notes: Notes
) -> None:
    """Put the objects into their images."""
    seen: dict[int, Row] = {}
    for row in rows:
        annotation_id, image_id, category_id = (_as_id(row.get(key)) for key in ("id", "image_id", "category_id"))
        what = f"annotation {row.get('id')}"
        if annotation_id is not None and seen.setdefault(annotation_id, row) is not row:
            if seen[annotation_id] == row:
                notes.add("annotations listed twice, taken once", what)
                continue
            notes.add("annotation ids given to different objects, all kept", what)
        corners = _corners(row.get("bbox"))
        if image_id not in image_ids:
            notes.add("annotations of unknown images, dropped", f"{what}, image_id {row.get('image_id')}")
        elif category_id not in names:
            notes.add("annotations of unknown categories, dropped", f"{what}, category_id {row.get('category_id')}")
        elif corners is None:
            notes.add("annotations without a bbox of four numbers, dropped", what)
        elif image := images.get(image_ids[image_id]):
            image.objects.append(ObjectRecord(names[category_id], corners, bool(row.get("iscrowd"))))


def _as_id(value: object) -> int | None:
    """An id as an int; some tools write digits as text. None if it is neither, or beyond int64."""
    if isinstance(value, str) and value.isdecimal() and len(value) < 20:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 else None


def _corners(bbox: object) -> tuple[float, float, float, float] | None:
    """COCO's (x, y, width, height) as pixel edges."""
    if not (isinstance(bbox, list) and len(bbox) == 4 and all(isinstance(v, int | float) for v in bbox)):
        return None
    try:
        x, y, width, height = map(float, bbox)
    except OverflowError:  # JSON's integers know no bound
        return (math.nan,) * 4
    return x, y, x + width, y + height


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
