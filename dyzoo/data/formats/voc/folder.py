"""Where a Pascal VOC folder keeps its label files, its images and the lists of its splits."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from dyzoo.data.formats.splits import split_kind
from dyzoo.data.formats.walking import files_below

_LABEL_FOLDERS = ("Annotations", "annotations")
_IMAGE_FOLDERS = ("JPEGImages", "images")
_LONGEST_NAME = 4096  # no file system takes a longer path


def find_sources(folder: Path) -> dict[str, Path]:
    """Split name -> its list of images, or the folder that holds its label files; empty if this is not VOC."""
    for name in _LABEL_FOLDERS:
        if _holds_xml_below(labels := folder / name):
            return _find_lists(folder) or _split_folders(labels) or {"all": labels}
    if _holds_xml(folder):
        return _find_lists(folder) or {"all": folder}
    return {child.name: child for child in sorted(folder.iterdir()) if _holds_xml(child)}


def find_folders(folder: Path, split: str, source: Path) -> tuple[Path, Path]:
    """The folders of a split's label files and of its images; `source` is what `find_sources` has for it."""
    if source.is_dir() and source.name not in _LABEL_FOLDERS and source.parent.name not in _LABEL_FOLDERS:
        return source, source
    label_folders = (folder / name for name in _LABEL_FOLDERS if _holds_xml_below(folder / name))
    label_folder = source if source.is_dir() else next(label_folders, folder)
    image_folders = [path for name in _IMAGE_FOLDERS if (path := folder / name).is_dir()]
    if source.is_dir() and source.parent.name in _LABEL_FOLDERS:
        for parent in (*image_folders, folder):
            if own := _of_split(parent, split):
                return label_folder, own
    return label_folder, next(iter(image_folders), folder)


class Files:
    """The files of a folder and its subfolders, to be found by where label files and lists say that they lie.

    Attributes:
        by_stem: place in the folder, without the suffix -> file.
    """

    def __init__(self, paths: Iterable[Path], folder: Path) -> None:
        self.by_stem = {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}
        # macOS takes accents apart in the names of files, which label files and lists have in one character.
        self._composed = {unicodedata.normalize("NFC", stem): path for stem, path in self.by_stem.items()}

        self._stems = {path: stem for stem, path in self.by_stem.items()}

    def stem_of(self, path: Path) -> str:
        """The place of one of the files."""
        return self._stems[path]

    def find(self, name: str) -> Path | None:
        """The file that the longest end of a path leads to; neither has a suffix."""
        if len(name) > _LONGEST_NAME:
            return None
        parts = PurePosixPath(name.replace("\\", "/")).parts
        for stem in (name, *("/".join(parts[start:]) for start in range(len(parts)))):
            if path := self.by_stem.get(stem) or self._composed.get(unicodedata.normalize("NFC", stem)):
                return path
        return None


def _holds_xml(folder: Path) -> bool:
    return folder.is_dir() and any(folder.glob("*.xml"))


def _holds_xml_below(folder: Path) -> bool:
    return folder.is_dir() and any(files_below(folder, (".xml",)))


def _find_lists(folder: Path) -> dict[str, Path]:
    lists = {path.stem: path for path in sorted((folder / "ImageSets" / "Main").glob("*.txt"))}
    # Beside `train.txt` VOC has `cat_train.txt` and so on: the same images, marked for one class each.
    of_one_class = {name for name in lists if "_" in name and name.rpartition("_")[2] in lists}
    if lists:
        return {name: path for name, path in lists.items() if name not in of_one_class}
    return {path.stem: path for path in sorted(folder.glob("*.txt")) if _names_a_split(path.stem)}


def _names_a_split(name: str) -> bool:
    """Whether this is a word for a split, perhaps with a year (`val2017`, `train_list`), and nothing but that."""
    words = [word for word in re.findall(r"[a-z]+", name.lower()) if word != "list"]
    return bool(words) and all(split_kind(word) or word == "trainval" for word in words)


def _split_folders(label_folder: Path) -> dict[str, Path]:
    """The subfolders, where they are called after splits and hold all label files."""
    if _holds_xml(label_folder):
        return {}
    children = {child.name: child for child in sorted(label_folder.iterdir()) if _holds_xml_below(child)}
    return children if any(map(_names_a_split, children)) else {}


def _of_split(folder: Path, split: str) -> Path | None:
    """The subfolder called after a split, or else after one of its kind."""
    if (folder / split).is_dir():
        return folder / split
    kind = split_kind(split)
    same = [path for path in sorted(folder.iterdir()) if kind and split_kind(path.name) == kind and path.is_dir()]
    return same[0] if len(same) == 1 else None
