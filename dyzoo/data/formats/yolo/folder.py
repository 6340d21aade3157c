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

from dyzoo.data.formats.lookup import is_folder, is_made_up, is_regular, is_there, lies_below, read_own_text
from dyzoo.data.formats.splits import check_split_name, split_kind
from dyzoo.data.formats.walking import files_below
from dyzoo.data.formats.yolo.paths import find_source
from dyzoo.data.records import Notes
from dyzoo.errors import DatasetError, first_line
from dyzoo.images.finding import is_image_file

_YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_SPLIT_KEYS = ("train", "val", "valid", "validation", "test")
_NULL = ("", "~", "null", "Null", "NULL")
_LABEL_FOLDER, _IMAGE_FOLDER = "labels", "images"
_DARKNET_SETTINGS = ("classes", "names", "backup", "eval", "results", "labels", "top")  # which name no images
_MOST_YAML_BYTES = 1 << 21  # 100,000 classes have half of it; each byte may cost a thousand in memory
_MOST_DIGITS = 9


@dataclass(frozen=True)
class YoloFolder:
    """A YOLO folder as its files describe it.

    Attributes:
        source: the file that names classes or splits, for messages.
        homes: the folders that images may lie in, the likelier first; the last is the dataset's own.
        splits: split name -> folders of images, lists of images, or images; at least one each.
        names: class names by number, None where nothing names them.
        keypoint_values: how many numbers follow a box.
    """

    source: Path
    homes: tuple[Path, ...]
    splits: dict[str, list[Path]]
    names: dict[int, str] | None
    keypoint_values: int = 0

    def class_names(self) -> dict[int, str]:
        """The class names by number. Raises `DatasetError` if there are none."""
        if not self.names:
            raise DatasetError(
                f"{self.source} has no class names: put them into {self.homes[-1] / 'classes.txt'}, one a line"
            )
        return self.names


def describe_folder(folder: Path, notes: Notes) -> YoloFolder | None:
    """The classes and images of a folder, by the first of its files that tells them; None if this is not YOLO.

    Raises:
        DatasetError: a file that describes the folder cannot be read, contradicts itself or leads out of it.
    """
    for path in _yaml_files(folder):
        if found := _from_yaml(path, notes):
            return found
    if (folder / "obj.data").exists():
        return _from_darknet(folder / "obj.data", notes)
    return _from_folders(folder)


def _yaml_files(folder: Path) -> list[Path]:
    """Those that have to be what they are called, whatever they are, and other files."""
    known = [folder / name for name in _YAML_NAMES if (folder / name).exists()]
    others = [path for path in sorted(folder.glob("*.y*ml")) if path.suffix in (".yaml", ".yml") and path not in known]
    return known + [path for path in others if is_regular(path)]


def _from_yaml(path: Path, notes: Notes) -> YoloFolder | None:
    """The folder of an Ultralytics file; one not called `data.yaml` has to look like it, or it is passed over."""
    folder, expected = path.parent, path.name in _YAML_NAMES
    try:
        # Every scalar as text, and no object of any kind: a class may be called `no`, `on` or `1_000`.
        content = yaml.load(read_own_text(path, [folder], _MOST_YAML_BYTES), Loader=yaml.BaseLoader)
    except DatasetError:
        if not expected:
            return None
        raise
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:  # ValueError: characters past Unicode
        if not expected:
            return None
        raise DatasetError(f"{path} is not YAML: {_yaml_fault(error)}") from None
    if not isinstance(content, dict) or not any(key in content for key in (*_SPLIT_KEYS, "names")):
        if not expected:
            return None
        raise DatasetError(f"{path} names no images, expected train, val and names")
    if not any(key in content for key in _SPLIT_KEYS) and not (expected and _holds_labels(folder)):
        if not expected:
            return None
        raise DatasetError(f"{path} names no images, expected train, val and names, or images/ and labels/ beside it")
    if not expected and "names" not in content:
        return None
    names = _names_of_yaml(content.get("names"), path)
    if "nc" in content and content["nc"] != str(len(names)):
        raise DatasetError(f"{path} has {len(names)} names but says nc: {_shown(content['nc'])}")
    homes = _homes(path, content.get("path"))
    splits = {}
    for key in _SPLIT_KEYS:
        entries = content.get(key)
        entries = [entries] if isinstance(entries, str) else entries
        if entries is None or entries in ([text] for text in _NULL):
            continue
        if not isinstance(entries, list) or not entries or not all(isinstance(entry, str) for entry in entries):
            raise DatasetError(f"{path}: {key} is {_shown(content[key])}, expected a path or a list of paths")
        # Roboflow names a folder of test images whether or not there is one, here or in the folder above.
        maybe_absent = key == "test" and all(entry.startswith("../") for entry in entries)
        try:
            sources = [find_source(entry, homes, f"{path}: {key}", notes) for entry in entries]
        except DatasetError:
            if maybe_absent:
                continue
            raise
        if key == "test" and not any(map(is_there, sources)):
            continue
        splits[key] = sources
    if not any(key in content for key in _SPLIT_KEYS):  # as supervision writes it
        splits = _splits_of_folders(folder)
    if away := [source for sources in splits.values() for source in sources if not lies_below(source, [folder])]:
        notes.add_all("sources outside the dataset folder, read because `path` leads there", away)
    return YoloFolder(path, homes, splits, names, _keypoint_values(content.get("kpt_shape"), path)) if splits else None


def _yaml_fault(error: Exception) -> str:
    """Where the grammar is broken, without the words of the file."""
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or type(error).__name__
    return f"{what}, line {mark.line + 1}" if mark else str(what)


def _names_of_yaml(names: Any, path: Path) -> dict[int, str]:
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    if not isinstance(names, dict) or not names:
        raise DatasetError(f"{path}: names is {_shown(names)}, expected a list, or numbers with their names")
    found = {}
    for number, name in names.items():
        if not _is_number(number) or not _is_name(name):
            raise DatasetError(f"{path}: names has {_shown(number)}: {_shown(name)}, expected a number and a name")
        found[int(number)] = name.strip()
    return found


def _is_number(text: object) -> bool:
    """Whether this is a number of classes or points: Python refuses to read those of thousands of digits."""
    return isinstance(text, str) and text.isdecimal() and len(text) <= _MOST_DIGITS


def _is_name(name: object) -> bool:
    """Whether this is the name of a class, without halves of characters, which no file could hold."""
    return isinstance(name, str) and name.strip() != "" and not any("\ud800" <= each <= "\udfff" for each in name)


def _keypoint_values(shape: Any, path: Path) -> int:
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or not all(map(_is_number, shape)):
        raise DatasetError(f"{path}: kpt_shape is {_shown(shape)}, expected a number of points and one of values")
    return math.prod(map(int, shape))


def _homes(path: Path, root: Any) -> tuple[Path, ...]:
    """The folder that `path` of a `data.yaml` names, if it is there, and the file's own.

    Often it is that of the machine the file was written on.
    """
    folder = path.parent
    if not isinstance(root, str) or root in _NULL or not is_folder(folder / root):
        return (folder,)
    if (real := (folder / root).resolve()) == Path(real.anchor) or is_made_up(real):
        raise DatasetError(f"{path}: path is {root!r}, {real} of the system, expected the folder of the dataset")
    return tuple(dict.fromkeys((folder / root, folder)))


def _from_darknet(path: Path, notes: Notes) -> YoloFolder:
    """The layout that CVAT calls YOLO 1.1: `names = obj.names`, `train = train.txt`, paths often led by `data/`."""
    homes = (path.parent,)
    settings = {}
    for line in read_own_text(path, homes).splitlines():
        key, equals, value = (part.strip() for part in line.partition("="))
        if equals and value:
            settings[key] = value
    splits = {
        check_split_name(key, path): [find_source(value, homes, f"{path}: {key}", notes)]
        for key, value in settings.items()
        if key not in _DARKNET_SETTINGS
    }
    if not splits:
        raise DatasetError(f"{path} names no list of images, expected `train = train.txt`")
    names_path = find_source(settings.get("names", "obj.names"), homes, f"{path}: names", Notes())
    if not names_path.is_file():
        raise DatasetError(f"{names_path} is absent, expected the class names that {path} speaks of")
    return YoloFolder(path, homes, splits, _names_of_list(names_path, homes))


def _from_folders(folder: Path) -> YoloFolder | None:
    """Names in `classes.txt`; splits by subfolders of `images`, by folders with `images` in them, or none."""
    names_path = next(
        (path for name in ("classes.txt", "obj.names", "labels/classes.txt") if (path := folder / name).exists()), None
    )
    if not _holds_labels(folder):
        return None
    if names_path is None and (folder / "notes.json").exists():
        names_path = folder / "notes.json"  # Label Studio's
    splits = _splits_of_folders(folder)
    if not splits or (names_path is None and _is_coco(folder)):
        return None
    homes = (folder,)
    if names_path is None:
        return YoloFolder(folder / _LABEL_FOLDER, homes, splits, None)
    names_of = _names_of_notes if names_path.suffix == ".json" else _names_of_list
    return YoloFolder(names_path, homes, splits, names_of(names_path, homes))


def _holds_labels(folder: Path) -> bool:
    label_folders = [folder / _LABEL_FOLDER, *(child / _LABEL_FOLDER for child in _folders_in(folder))]
    if any(True for each in label_folders if each.is_dir() for _ in files_below(each, (".txt",))):
        return True
    return any(is_image_file(path) and path.with_suffix(".txt").is_file() for path in folder.iterdir())


def _splits_of_folders(folder: Path) -> dict[str, list[Path]]:
    images = folder / _IMAGE_FOLDER
    if images.is_dir():
        children = {child.name: [child] for child in _folders_in(images)}
        if children and all(split_kind(name) for name in children):
            return children
        return {"all": [images]}
    split_folders = [child for child in _folders_in(folder) if split_kind(child.name)]
    if of_split := {child.name: [child / _IMAGE_FOLDER] for child in split_folders if (child / _IMAGE_FOLDER).is_dir()}:
        return of_split
    return {"all": [images if (folder / _LABEL_FOLDER).is_dir() else folder]}


def _folders_in(folder: Path) -> list[Path]:
    return [child for child in sorted(folder.iterdir()) if child.is_dir() and not child.name.startswith(".")]


def _is_coco(folder: Path) -> bool:
    return any((folder / "annotations").glob("*.json")) or any(folder.glob("*.json"))


def _names_of_list(path: Path, homes: Sequence[Path]) -> dict[int, str]:
    """One name a line; empty lines only at the end."""
    lines = [line.strip() for line in read_own_text(path, homes).splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    if "" in lines:
        raise DatasetError(f"{path} has an empty line {lines.index('') + 1}, expected a class name in every line")
    if not lines:
        raise DatasetError(f"{path} is empty, expected one class name a line")
    return dict(enumerate(lines))


def _names_of_notes(path: Path, homes: Sequence[Path]) -> dict[int, str]:
    text = read_own_text(path, homes)
    try:
        names = {int(row["id"]): row["name"] for row in json.loads(text)["categories"]}
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise DatasetError(f"{path} has no categories with id and name: {first_line(error)}") from None
    for number, name in names.items():
        if not _is_name(name):
            raise DatasetError(f"{path} has no categories with id and name: {number} is {_shown(name)}")
    return {number: name.strip() for number, name in names.items()}


def _shown(value: object) -> str:
    """Short whatever its size: YAML's aliases can make a small file a large value."""
    return reprlib.repr(value)
