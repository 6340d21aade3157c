"""Sources of one picture: an image file, an image in memory, the content of an image file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dyzoo.images.reading import Picture, decode_picture, read_picture, to_picture
from dyzoo.images.sources.base import Pending, Reading, Source, failing
from dyzoo.text import printable


@dataclass(frozen=True)
class ImageFile(Source):
    """A file that is read as an image, whatever its suffix."""

    path: Path
    source: str

    @classmethod
    def at(cls, path: Path) -> ImageFile:
        """The file under its own name."""
        return cls(path, printable(str(path)))

    def open(self, reading: Reading) -> Iterator[Pending]:
        """The picture."""
        yield lambda: replace(read_picture(self.path, reading.least_size, reading.max_pixels), source=self.source)


@dataclass(frozen=True, eq=False)
class InMemory(Source):
    """A PIL image, an array, a tensor or a `Picture`, as `dyzoo.images.reading.to_picture` takes it."""

    image: Image.Image | np.ndarray | torch.Tensor | Picture
    source: str | None = None

    def open(self, reading: Reading) -> Iterator[Pending]:
        """The picture, with the name of the source if it has got one."""
        yield self._picture

    def _picture(self) -> Picture:
        picture = to_picture(self.image)
        return picture if self.source is None else replace(picture, source=self.source)


@dataclass(frozen=True)
class Encoded(Source):
    """The content of an image file, in memory."""

    content: bytes
    source: str | None = None

    def open(self, reading: Reading) -> Iterator[Pending]:
        """The picture, with the name of the source if it has got one."""
        name = f"the content ({len(self.content)} bytes)"
        yield lambda: replace(
            decode_picture(self.content, name, reading.least_size, reading.max_pixels), source=self.source
        )


@dataclass(frozen=True)
class Unusable(Source):
    """Something no picture comes out of, and why."""

    source: str | None
    why: str

    def open(self, reading: Reading) -> Iterator[Pending]:
        """The reason."""
        yield failing(self.why)
