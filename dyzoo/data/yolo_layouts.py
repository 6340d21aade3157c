"""Where a YOLO folder keeps its class names and its images: what each tool calls them."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dyzoo.data.splits import split_kind
from dyzoo.errors import DatasetError, first_line
from dyzoo.images import is_image_file, natural_key

_YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_SPLIT_KEYS = ("train", "val", "valid", "validation", "test")
_NULL = ("", "~", "null", "Null", "NULL")
_LABEL_FOLDER, _IMAGE_FOLDER = "labels", "images"


@dataclass(frozen=True)
class Layout:
    """A YOLO folder as its files describe it.

    Attributes:
        source: the file that names classes or splits, for messages.
        root: the folder that paths in lists are relative to.
        splits: split name -> folders of images, lists of images, or images; at least one each.
        names: class names by number, None where nothing names them.
        keypoint_values: how many numbers follow a box.
    """

    source: Path
    root: Path
    splits: dict[str, list[Path]]
    names: dict[int, str] | None
    keypoint_values: int = 0

    def class_names(self) -> dict[int, str]:
        """The class names by number. Raises `DatasetError` if there are none."""
        if not self.names:
            raise DatasetError(
                f"{self.source} has no class names: put them into {self.root / 'classes.txt'}, one a line"
            )
        return self.names


def find_layout(folder: Path) -> Layout | None:
    """What is there, or None if this is not YOLO.

    Raises:
        DatasetError: a file that describes the folder cannot be read or contradicts itself.
    """
    for path in _yaml_files(folder):
        if layout := _of_yaml(path):
            return layout
    if (folder / "obj.data").is_file():
        return _of_darknet(folder / "obj.data")
    return _of_folders(folder)


def images_below(folder: Path) -> list[Path]:
    """The images in a folder and its subfolders, naturally sorted."""
    return sorted((path for path in folder.rglob("*") if is_image_file(path)), key=natural_key)


def _yaml_files(folder: Path) -> list[Path]:
    known = [folder / name for name in _YAML_NAMES if (folder / name).is_file()]
    others = [path for path in sorted(folder.glob("*.y*ml")) if path.suffix in (".yaml", ".yml") and path not in known]
    return known + others


def _of_yaml(path: Path) -> Layout | None:
    """Ultralytics. A file under another name than `data.yaml` has to look like one, or it is passed over."""
    expected = path.name in _YAML_NAMES
    try:
        # Every scalar as text, and no object of any kind: a class may be called `no`, `on` or `1_000`.
        content = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        if not expected:
            return None
        raise DatasetError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not any(key in content for key in _SPLIT_KEYS):
        if not expected:
            return None
        raise DatasetError(f"{path} names no images, expected train, val and names")
    if not expected and "names" not in content:
        return None
    names = _names_of_yaml(content.get("names"), path)
    if str(content.get("nc", len(names))) != str(len(names)):
        raise DatasetError(f"{path} has {len(names)} names but says nc: {content['nc']}")
    root = _root(path.parent, content.get("path"))
    splits = {}
    for key in _SPLIT_KEYS:
        entries = content.get(key)
        entries = [entries] if isinstance(entries, str) else entries
        if entries is None or entries in ([text] for text in _NULL):
            continue
        if not isinstance(entries, list) or not entries or not all(isinstance(entry, str) for entry in entries):
            raise DatasetError(f"{path}: {key} is {_shown(content[key])}, expected a path or a list of paths")
        sources = [_resolve(entry, root, path.parent) for entry in entries]
        # Roboflow names a folder of test images whether or not there is one.
        if key == "test" and not any(source.exists() for source in sources):
            continue
        splits[key] = sources
    return Layout(path, root, splits, names, _keypoint_values(content.get("kpt_shape"), path)) if splits else None


def _names_of_yaml(names: Any, path: Path) -> dict[int, str]:
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    if not isinstance(names, dict) or not names:
        raise DatasetError(f"{path}: names is {_shown(names)}, expected a list, or numbers with their names")
    found = {}
    for number, name in names.items():
        if not isinstance(number, str) or not number.isdecimal() or not isinstance(name, str) or not name.strip():
            raise DatasetError(f"{path}: names has {_shown(number)}: {_shown(name)}, expected a number and a name")
        found[int(number)] = name.strip()
    return found


def _keypoint_values(shape: Any, path: Path) -> int:
    if shape is None:
        return 0
    if not isinstance(shape, list) or not all(isinstance(each, str) and each.isdecimal() for each in shape):
        raise DatasetError(f"{path}: kpt_shape is {_shown(shape)}, expected a number of points and one of values")
    return math.prod(map(int, shape))


def _root(folder: Path, path: Any) -> Path:
    """The folder that `path` names, if it is there: often it is that of the machine the file was written on."""
    root = folder / path if isinstance(path, str) and path not in _NULL else folder
    return root if root.is_dir() else folder


def _resolve(entry: str, root: Path, folder: Path) -> Path:
    """Where a path of `data.yaml` leads.

    Roboflow writes `../train/images` where `train/images` is meant: what lies in the folder itself comes first.
    """
    entry = entry.strip().replace("\\", "/")
    inside = entry
    while inside.startswith(("../", "./")):
        inside = inside.partition("/")[2]
    candidates = [root / inside, folder / inside, root / entry, folder / entry]
    return next((path for path in candidates if path.exists()), root / entry)


def _of_darknet(path: Path) -> Layout:
    """What CVAT calls YOLO 1.1: `names = obj.names`, `train = train.txt`, paths often led by `data/`."""
    settings = {}
    for line in _lines(path):
        key, equals, value = (part.strip() for part in line.partition("="))
        if equals and value:
            settings[key] = value
    root = path.parent
    splits = {
        key: [_darknet_path(value, root)]
        for key, value in settings.items()
        if key not in ("classes", "names", "backup")
    }
    if not splits:
        raise DatasetError(f"{path} names no list of images, expected `train = train.txt`")
    names_path = _darknet_path(settings.get("names", "obj.names"), root)
    if not names_path.is_file():
        raise DatasetError(f"{names_path} is absent, expected the class names that {path} speaks of")
    return Layout(path, root, splits, _names_of_list(names_path))


def _darknet_path(value: str, root: Path) -> Path:
    inside = root / value.removeprefix("data/")
    return inside if inside.exists() else root / value


def _of_folders(folder: Path) -> Layout | None:
    """Names in `classes.txt`; splits by subfolders of `images`, by folders with `images` in them, or none."""
    names_path = next(
        (path for name in ("classes.txt", "obj.names", "labels/classes.txt") if (path := folder / name).is_file()), None
    )
    if not _holds_labels(folder):
        return None
    if names_path is None and (folder / "notes.json").is_file():
        names_path = folder / "notes.json"  # Label Studio's
    splits = _splits_of_folders(folder)
    if not splits or (names_path is None and _is_coco(folder)):
        return None
    if names_path is None:
        return Layout(folder / _LABEL_FOLDER, folder, splits, None)
    names = _names_of_notes(names_path) if names_path.suffix == ".json" else _names_of_list(names_path)
    return Layout(names_path, folder, splits, names)


def _holds_labels(folder: Path) -> bool:
    if any((folder / _LABEL_FOLDER).rglob("*.txt")) or any(folder.glob(f"*/{_LABEL_FOLDER}/*.txt")):
        return True
    return any(is_image_file(path) and path.with_suffix(".txt").is_file() for path in folder.iterdir())


def _splits_of_folders(folder: Path) -> dict[str, list[Path]]:
    images = folder / _IMAGE_FOLDER
    if images.is_dir():
        children = {child.name: [child] for child in sorted(images.iterdir()) if child.is_dir()}
        if children and all(split_kind(name) for name in children):
            return children
        return {"all": [images]}
    split_folders = [child for child in sorted(folder.iterdir()) if child.is_dir() and split_kind(child.name)]
    if of_split := {child.name: [child / _IMAGE_FOLDER] for child in split_folders if (child / _IMAGE_FOLDER).is_dir()}:
        return of_split
    return {"all": [images if (folder / _LABEL_FOLDER).is_dir() else folder]}


def _is_coco(folder: Path) -> bool:
    return any((folder / "annotations").glob("*.json")) or any(folder.glob("*.json"))


def _names_of_list(path: Path) -> dict[int, str]:
    """One name a line; empty lines only at the end."""
    lines = [line.strip() for line in _lines(path)]
    while lines and not lines[-1]:
        lines.pop()
    if "" in lines:
        raise DatasetError(f"{path} has an empty line {lines.index('') + 1}, expected a class name in every line")
    if not lines:
        raise DatasetError(f"{path} is empty, expected one class name a line")
    return dict(enumerate(lines))


def _names_of_notes(path: Path) -> dict[int, str]:
    try:
        rows = json.loads(path.read_bytes())["categories"]
        return {int(row["id"]): str(row["name"]).strip() for row in rows}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DatasetError(f"{path} has no categories with id and name: {first_line(error)}") from None


def _lines(path: Path) -> Sequence[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DatasetError(f"{path} is not a text file") from None


def _shown(value: object) -> str:
    """Short whatever its size: YAML's aliases can make a small file a large value."""
    return reprlib.repr(value)
