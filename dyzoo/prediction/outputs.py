"""Outputs that take each picture's result at once."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol

from PIL import Image

from dyzoo.errors import first_line
from dyzoo.images.detections import Detections
from dyzoo.images.drawing import save_picture
from dyzoo.prediction.names import CROPS_NAME

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@dataclass(eq=False)
class Found:
    """The result of one picture.

    Attributes:
        detections: with the picture itself, or a path to read it from again.
        stem: the name of its files, without a suffix; in a frame's there is a folder.
    """

    detections: Detections
    stem: str

    @cached_property
    def plot(self) -> Image.Image:
        """The annotated picture, drawn once for all who want it."""
        return self.detections.plot()


class Output(Protocol):
    """A place where results go while the job runs, in the order of the sources."""

    def add(self, found: Found) -> None:
        """Take the next result. What is raised for it, but for a full disk, costs no other result."""

    def close(self) -> None:
        """Take no more; called once, also where the job was stopped."""


class Pictures:
    """Annotated pictures, OUT/STEM.png."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def path(self, stem: str) -> Path:
        """Where that picture is."""
        return self.out / f"{stem}.png"

    def add(self, found: Found) -> None:
        save_picture(found.plot, self.path(found.stem))

    def close(self) -> None:
        """Nothing is open."""


class Crops:
    """The objects cut out, OUT/crops/CLASS/STEM_1.png, ..."""

    def __init__(self, out: Path) -> None:
        self.folder = out / CROPS_NAME

    def add(self, found: Found) -> None:
        found.detections.save_crops(self.folder, found.stem)

    def close(self) -> None:
        """Nothing is open."""


def try_to_add(output: Output, found: Found, what: str) -> str | None:
    """Add a result; the line to say where that fails, as `try_to` does it."""
    return try_to(partial(output.add, found), what)


def try_to(write: Callable[[], None], what: str) -> str | None:
    """Write something; the line to say where that fails.

    Args:
        write: does it.
        what: what cannot be written where no file is named.

    Raises:
        OSError: the disk is full, which no other result would survive.
    """
    try:
        write()
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise
        name = getattr(error, "filename", None) or what
        return f"{name} cannot be written: {getattr(error, 'strerror', None) or first_line(error)}"
    return None
