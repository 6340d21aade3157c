"""Telling which image files show the same picture."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from dyzoo.data.tools.folder import Track, untracked
from dyzoo.images.reading import read_image

_SIDE = 16
# Correlation of the grey values of two pictures at 16x16. A picture and its copy at two thirds of the size, saved as
# JPEG of quality 40, correlate by over 0.999; different pictures of one microscope by under 0.75.
_MIN_CORRELATION = 0.98
# A picture of one colour has nothing that could correlate.
_MIN_DEVIATION = 1.0
_ROWS_AT_ONCE = 1024


def group_by_content(paths: Iterable[Path]) -> list[list[Path]]:
    """Files with the same bytes together, every one in exactly one group, in the order in which they come.

    Only files of equal size are read.
    """
    by_size: dict[int, list[Path]] = defaultdict(list)
    paths = list(dict.fromkeys(paths))
    for path in paths:
        by_size[path.stat().st_size].append(path)
    groups: dict[object, list[Path]] = defaultdict(list)
    for path in paths:
        size = path.stat().st_size
        key = path if len(by_size[size]) == 1 else (size, _digest(path))
        groups[key].append(path)
    return list(groups.values())


def thumbnail(path: Path) -> np.ndarray:
    """(256,) float32, the picture as 16x16 grey values of mean 0 and length 1; all 0 if it is of one colour.

    The whole picture is decoded. Raises `ImageError` as `dyzoo.images.reading.read_image` does.
    """
    small = read_image(path).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    values = np.asarray(small, dtype=np.float32).ravel()
    values = values - values.mean()
    return values / np.linalg.norm(values) if values.std() > _MIN_DEVIATION else np.zeros_like(values)


def nearest(
    thumbnails: np.ndarray, others: np.ndarray | None, description: str, track: Track = untracked
) -> np.ndarray:
    """For each of (N, 256) thumbnails the row of `others` that shows nearly the same picture, or -1: (N,) int64.

    Without `others` it is looked for among the rows before its own. `track` shows progress under `description`.
    """
    found = np.full(len(thumbnails), -1)
    among = thumbnails if others is None else others
    starts = range(0, len(thumbnails), _ROWS_AT_ONCE)
    for start in track(starts, description, len(starts)):
        rows = thumbnails[start : start + _ROWS_AT_ONCE]
        correlation = rows @ (among if others is not None else among[: start + len(rows)]).T
        if others is None:
            correlation[:, start:][np.triu_indices(len(rows))] = -1
        if correlation.size:
            best = correlation.argmax(axis=1)
            near = correlation[np.arange(len(rows)), best] > _MIN_CORRELATION
            found[start : start + len(rows)] = np.where(near, best, -1)
    return found


def _digest(path: Path) -> bytes:
    digest = hashlib.blake2b()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()
