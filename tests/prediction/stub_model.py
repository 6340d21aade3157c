"""A detector that finds the same everywhere and remembers how it was asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dyzoo.errors import ImageError
from dyzoo.images.detections import Detections
from dyzoo.images.reading import Picture
from dyzoo.images.sources.ahead import read_all
from dyzoo.images.sources.base import Reading
from dyzoo.images.sources.given import given_sources


class StubModel:
    """Finds a cat and a dog in each picture; a path that ends with .film is one of `frames` pictures, and no file.

    Attributes:
        asked: the settings of each call of `predict`.
        notes: those that each of its answers has.
    """

    labels = ("cat", "../dog")

    def __init__(self, frames: int = 3, notes: tuple[str, ...] = ()) -> None:
        self.frames, self.notes = frames, notes
        self.asked: list[dict[str, Any]] = []

    def predict(self, images: Iterable[Any], **settings: Any) -> Iterator[Detections | ImageError]:
        """As `Detector.predict`."""
        self.asked.append(settings)
        assert (settings["on_error"], settings["stream"]) == ("return", True)
        return self._answers(images, settings)

    def _answers(self, images: Iterable[Any], settings: dict[str, Any]) -> Iterator[Detections | ImageError]:
        for source in given_sources(images):
            if str(source.source).endswith(".film"):
                picture = Picture(Image.new("RGB", (60, 40)), (40, 60), source=source.source)
                for frame in range(self.frames):
                    yield self._found(replace(picture, frame=frame, time_s=frame / 10), settings)
                continue
            reading = Reading(frame_stride=settings.get("frame_stride", 1))
            yield from read_all([source], reading, lambda picture: self._found(picture, settings), workers=0)

    def _found(self, picture: Any, settings: dict[str, Any]) -> Detections:
        return Detections(
            torch.tensor([[1.0, 2, 11, 12], [20.25, 10, 40, 30]]),
            torch.tensor([0.9, 0.5]),
            torch.tensor([0, 1]),
            self.labels,
            picture.size,
            path=picture.path,
            source=picture.source,
            frame=picture.frame,
            time_s=picture.time_s,
            picture=picture if settings.get("keep_pictures") else None,
            notes=self.notes,
        )


def write_pictures(folder: Path, *names: str) -> list[Path]:
    """Grey pictures of 60 x 40 pixels."""
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40), (128, 128, 128)).save(path)
    return paths
