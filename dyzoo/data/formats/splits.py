"""A split that a format has found, and split names, which every tool spells its own way."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from dyzoo.data.formats.lookup import is_plain_name
from dyzoo.data.records import Notes, SplitRecord
from dyzoo.errors import DatasetError
from dyzoo.text import printable

_MOST_BYTES = 100  # a file system takes 255, of which `instances_<split>.json` needs some

_KINDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


class FoundSplit(NamedTuple):
    """A split of a folder: the file or folder that defines it, and its reading.

    Reading opens no image, and boxes may be as wrong as the label files are. It raises `DatasetError` where a label
    file cannot be read.
    """

    source: Path
    read: Callable[[Notes], SplitRecord]


def split_kind(name: str) -> str | None:
    """The plain name of a split: `valid` and `bccd_val2017` are "val"; None if it is no usual one (`trainval`)."""
    words = re.findall(r"[a-z]+", name.lower())
    return next((_KINDS[word] for word in words if word in _KINDS), None)


def check_split_name(name: str, source: Path) -> str:
    """The name as it came, if a file and a folder may be called so: splits become paths when a folder is converted.

    Args:
        name: the split's, as a stranger's file gives it.
        source: the file or folder that gives it, for the message.

    Raises:
        DatasetError: the name is empty, hidden or too long, or has a separator or control character.
    """
    if not is_plain_name(name, _MOST_BYTES):
        shown = ascii(name[:_MOST_BYTES]) + "..." * (len(name) > _MOST_BYTES)
        where = printable(str(source))
        raise DatasetError(f"{where}: a split is called {shown}, expected a plain file name of {_MOST_BYTES} bytes")
    return name


def choose_split(wanted: str | None, available: Collection[str], folder: Path) -> str:
    """The one of `available` that `wanted` means; None means the only one.

    Raises:
        DatasetError: none or several fit; the message lists what there is.
    """
    if wanted is None:
        fitting = list(available)
    elif wanted in available:
        fitting = [wanted]
    else:
        kind = split_kind(wanted)
        fitting = [name for name in available if kind and split_kind(name) == kind]
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(sorted(available))
    if wanted is None:
        raise DatasetError(f"{folder} has several splits, name one of them: {listed}")
    fault = f"has several splits {wanted!r}" if fitting else f"has no split {wanted!r}"
    # Not split yet: all in one, or training images alone.
    unsplit = split_kind(wanted) in ("train", "val") and not any(split_kind(name) == "val" for name in available)
    way_out = f" (`dyzoo data convert {folder} OUT --split 0.2` makes train and val of it)" if unsplit else ""
    raise DatasetError(f"{folder} {fault}, available: {listed}{way_out if not fitting else ''}")
