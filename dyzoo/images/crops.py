"""The objects found in a picture, cut out, and the names of the folders they go to."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

_MOST_BYTES = 100  # of a folder's name; a class may have any
_PLAIN = " -_.,+()"


def cut_out(image: Image.Image, boxes_xyxy: Sequence[Sequence[float]]) -> list[Image.Image]:
    """The part of the image in each box, all pixels that it touches, at least one."""
    width, height = image.size
    cut = []
    for x1, y1, x2, y2 in boxes_xyxy:
        left, top = min(max(math.floor(x1), 0), width - 1), min(max(math.floor(y1), 0), height - 1)
        cut.append(
            image.crop((left, top, max(min(math.ceil(x2), width), left + 1), max(min(math.ceil(y2), height), top + 1)))
        )
    return cut


def class_folders(names: Sequence[str]) -> list[str]:
    """A folder name for each class: no part of it leads anywhere else, and no two are the same in any case."""
    taken: set[str] = set()
    folders = []
    for name in names:
        plain = "".join(letter if letter.isalnum() or letter in _PLAIN else "_" for letter in name)
        plain = plain.encode()[:_MOST_BYTES].decode(errors="ignore").strip(" ").rstrip(".")
        plain = f"_{plain[1:]}" if plain.startswith(".") else plain or "_"
        unique, number = plain, 2
        while unique.casefold() in taken:
            unique, number = f"{plain}_{number}", number + 1
        taken.add(unique.casefold())
        folders.append(unique)
    return folders
