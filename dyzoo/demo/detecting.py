"""Answers of a page to one picture: its detections, drawn, as rows of a table, as JSON and in words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from PIL import Image

from dyzoo.demo.models import Models
from dyzoo.errors import SettingError
from dyzoo.images.detections import Detections
from dyzoo.images.reading import decode_picture
from dyzoo.images.sources.single import Encoded
from dyzoo.model.classes import DEFAULT_THRESHOLD, class_thresholds
from dyzoo.model.detector import Detector
from dyzoo.model.heads.base import Limits
from dyzoo.model.missed import note_on_limit
from dyzoo.text import printable

COLUMNS = ("class", "score", "x1", "y1", "x2", "y2")

SIZES = (320, 480, 640, 800, 960, 1280)
"""Shortest edges in pixels that somebody may ask for: what the network sees stays small enough for most memories."""


class Upload(NamedTuple):
    """An image file that somebody sent: what the sender calls it, and its content."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Wish:
    """Settings of one answer, as `Detector.predict` has them; `model` is one of those that the page offers."""

    model: str
    threshold: float = DEFAULT_THRESHOLD
    size: int | None = None
    classes: tuple[str, ...] | None = None


class Memory(NamedTuple):
    """All that was found in a picture, whatever the score: another threshold or class needs no second look.

    Attributes:
        key: the picture's hash, the model and the size.
        found: without the picture itself.
    """

    key: tuple[Any, ...]
    found: Detections


@dataclass(frozen=True, eq=False)
class Answer:
    """Detections in a picture, equal to those of `Detector.predict` with the same settings, and the picture of them."""

    wish: Wish
    detections: Detections
    plot: Image.Image
    memory: Memory

    def rows(self) -> list[list[str | float]]:
        """A row of `COLUMNS` for each object."""
        return [[printable(d.name), round(d.score, 2), *(round(edge) for edge in d.box_xyxy)] for d in self.detections]

    def words(self) -> str:
        """A line of how many objects of each class there are, and a line for each note."""
        counts = ", ".join(f"{number} {printable(name)}" for name, number in self.detections.counts().items())
        return "\n".join([counts or "nothing found", *self.detections.notes])

    def to_json(self) -> str:
        """The settings and the detections, in the form of `dyzoo predict`'s detections.json."""
        wish = self.wish
        settings = {"model": wish.model, "threshold": wish.threshold, "flips": [], "size": wish.size}
        classes = {} if wish.classes is None else {"classes": list(wish.classes)}
        return json.dumps({**settings, **classes, "images": [self.detections.to_dict()]}, indent=2) + "\n"


def answer(models: Models, upload: Upload, wish: Wish, memory: Memory | None = None) -> Answer:
    """Look at a picture, unless `memory` is of the same one, seen the same way.

    Raises:
        DyzooError: there is no such model, size or class, the threshold is none, or the picture cannot be read.
    """
    check_size(wish.size)
    detector = models.get(wish.model)
    least = class_thresholds(detector.labels, wish.threshold, wish.classes)
    key = (hashlib.sha256(upload.content).digest(), wish.model, wish.size)
    if memory is None or memory.key != key:
        source = Encoded(upload.content, printable(upload.name))
        (seen,) = detector.predict(source, 0.0, size=wish.size, keep_pictures=True)
        picture, memory = seen.picture, Memory(key, replace(seen, picture=None))
    else:
        picture = decode_picture(upload.content, "the picture")
    everything = replace(memory.found, source=printable(upload.name))
    kept = everything[everything.scores >= least[everything.labels]]
    kept = replace(kept, notes=(*kept.notes, *_limit_reached(detector, everything, float(least.min()))))
    return Answer(wish, kept, kept.plot(picture), memory)


def check_size(size: int | None) -> None:
    """Raise a `SettingError` unless a size is one of `SIZES`, or none."""
    if size is not None and size not in SIZES:
        raise SettingError(f"the size is {size!r:.40}, expected one of {', '.join(map(str, SIZES))}")


def _limit_reached(detector: Detector, everything: Detections, least: float) -> Sequence[str]:
    """The note of `Detector.predict` on a picture with more objects than are kept."""
    most = Limits.of(detector.config.head).max_detections
    is_full = least > 0 and int((everything.scores >= least).sum()) >= most
    line = note_on_limit(most, int(is_full), 0, False)
    return [] if line is None else [line]
