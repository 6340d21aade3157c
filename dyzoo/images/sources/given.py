"""From whatever `predict` is given to sources, as they are needed."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image

from dyzoo.images.reading import Picture
from dyzoo.images.sources.base import Source
from dyzoo.images.sources.film import Camera
from dyzoo.images.sources.naming import named_sources
from dyzoo.images.sources.single import Encoded, InMemory, Unusable

One: TypeAlias = str | Path | int | bytes | Image.Image | np.ndarray | torch.Tensor | Picture | Source
Given: TypeAlias = One | Iterable[One] | Iterable[Iterable[One]]
"""Everything that `predict` takes: a file, folder, glob, list or address, the index of a camera, the content of an
image file, a picture in memory, a batch of them, a source; or any iterable of these, or of iterables of these."""

EXPECTED = (
    "a path, a folder, a glob, an address, the index of a camera, the bytes of an image file, a PIL image, an array "
    "(H, W, 3), a tensor (3, H, W), or an iterable of these"
)


def given_sources(given: Any, depth: int = 0) -> Iterator[Source]:
    """The sources in what was given; nothing is asked of an iterator before it is needed."""
    if isinstance(given, Source):
        yield given
    elif isinstance(given, str | Path):
        yield from named_sources(given)
    elif isinstance(given, bytes | bytearray | memoryview):
        yield Encoded(bytes(given))
    elif isinstance(given, np.ndarray | torch.Tensor) and given.ndim == 4:
        yield from map(InMemory, given)
    elif isinstance(given, Picture | Image.Image | np.ndarray | torch.Tensor):
        yield InMemory(given)
    elif isinstance(given, int) and not isinstance(given, bool) and depth < 2:
        yield Camera.number(given)
    elif isinstance(given, Iterable) and not isinstance(given, Mapping | io.IOBase) and depth < 2:
        for each in given:
            yield from given_sources(each, depth + 1)
    else:
        what = f"{'an' if type(given).__name__[0] in 'aeiou' else 'a'} {type(given).__name__}"
        yield Unusable(None, f"the image is {what}, expected {EXPECTED}")
