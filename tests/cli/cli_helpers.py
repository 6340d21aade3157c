"""Helpers that the tests of the command line share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]


def assert_one_error(outcome: Outcome, *words: str) -> None:
    """The command ended with code 1 and says one line with these words."""
    assert outcome.code == 1
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1, outcome.err
    for word in words:
        assert word in outcome.err


def write_picture(path: Path, size: tuple[int, int] = (96, 64)) -> Path:
    """A picture of that (width, height) with a red and a blue square on noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(100, 160, (size[1], size[0], 3), dtype=np.uint8)
    pixels[10:40, 10:40], pixels[10:40, 50:80] = (220, 20, 20), (20, 20, 220)
    Image.fromarray(pixels).save(path)
    return path
