"""From the pictures of one call of `predict` to detections: looks, batches, thresholds, notes on what may be missed."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby, islice
from typing import Any, NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor

from dyzoo.config import DetectorConfig
from dyzoo.errors import ImageError
from dyzoo.images.detections import Detections
from dyzoo.images.reading import Picture
from dyzoo.model.batches import in_batches
from dyzoo.model.heads.base import Detected, Head, Limits
from dyzoo.model.looks import Look, Looks, least_size, make_looks
from dyzoo.model.missed import MissedWarning, note_on_limit, note_on_shrinking
from dyzoo.model.mode import evaluating
from dyzoo.model.precision import Precision, computing_in
from dyzoo.model.sizes import Size, most_images, padded_size
from dyzoo.model.tiles import Tiles
from dyzoo.model.views import Flip, detect_in_views

_WINDOW = 4  # batches among whose pictures equally large ones are looked for
_NO_IMAGE = Image.new("RGB", (1, 1))


class Network(Protocol):
    """A detector that gives a `Detected` for each picture (3, h, w) when it is called."""

    config: DetectorConfig
    head: Head

    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    def __call__(self, pictures: Sequence[Tensor], *, limits: Limits = ...) -> Any: ...


@dataclass(frozen=True)
class Settings:
    """Settings of one call of `predict`.

    Attributes:
        thresholds: (C,) the least score of each class, infinite for one that is not kept.
        limits: None for the head's own.
        max_detections: that the user has asked for; None leaves it to `limits`.
    """

    thresholds: Tensor
    size: Size
    batch_size: int
    flips: tuple[Flip, ...]
    limits: Limits | None
    max_detections: int | None
    tiles: Tiles
    precision: Precision | None
    keep_pictures: bool


class Input(NamedTuple):
    """How the network looks at a picture, and the picture, without its pixels unless they are to be kept."""

    looks: Looks
    picture: Picture


@dataclass(frozen=True)
class Pipeline:
    """The way of the pictures of one call through a network.

    Attributes:
        model: the network.
        settings: of the call.
        missed: reason why something may be missing -> the first line that says so.
    """

    model: Network
    settings: Settings
    missed: dict[str, str] = field(default_factory=dict)

    @property
    def _limits(self) -> Limits:
        return self.settings.limits or Limits.of(self.model.config.head)

    def least_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of the smallest image of use, for a picture of that (H, W)."""
        return least_size(self.model.config.preprocess, image_size, self.settings.size, self.settings.tiles)

    def prepare(self, picture: Picture) -> Input:
        """One picture as the network is to see it. Raises `ImageError`."""
        looks = make_looks(picture, self.model.config.preprocess, self.settings.size, self.settings.tiles)
        if looks.grid is None:  # tiles are made when their turn comes, as all of them together are large
            looks = replace(looks, looks=[look.made() for look in looks.looks])
        return Input(looks, picture if self.settings.keep_pictures else replace(picture, image=_NO_IMAGE))

    def answers(
        self, inputs: Generator[Input | ImageError], is_asked_ahead: bool, raises: bool, stacklevel: int
    ) -> Iterator[Detections | ImageError]:
        """Detections in each input, errors in their places or, if `raises`, raised.

        What may be missing is warned of once for each reason, at the caller `stacklevel` frames above.
        """
        batch_size = self.settings.batch_size
        within = batch_size * (_WINDOW if is_asked_ahead and batch_size > 1 else 1)
        warned: set[str] = set()
        with closing(inputs):
            for answer in in_batches(inputs, self.alike, self._detect, batch_size, within):
                if raises and isinstance(answer, ImageError):
                    raise answer
                for reason in self.missed.keys() - warned:
                    warned.add(reason)
                    warnings.warn(self.missed[reason], MissedWarning, stacklevel)
                yield answer

    def alike(self, given: Input) -> object:
        """The key that pictures of one batch share: their size in the network; one of its own where looks differ."""
        sizes = {self._padded_size(look) for look in given.looks.looks}
        return sizes.pop() if len(sizes) == 1 else object()

    def _padded_size(self, look: Look) -> tuple[int, int]:
        return padded_size([look.size], self.model.config.preprocess.size_divisor)

    def _detect(self, inputs: Sequence[Input]) -> list[Detections]:
        return self.detect(inputs, [self] * len(inputs))

    @torch.inference_mode()
    def detect(self, inputs: Sequence[Input], pipelines: Sequence[Pipeline]) -> list[Detections]:
        """Detections in pictures that are `alike`.

        Args:
            inputs: prepared, each by a pipeline of its own.
            pipelines: these: of the same model, and with other thresholds and sizes than this one's at most.
        """
        found = self._look([look for given in inputs for look in given.looks.looks])
        return [
            pipeline.detections(given, list(islice(found, len(given.looks.looks))))
            for given, pipeline in zip(inputs, pipelines, strict=True)
        ]

    def _look(self, looks: Sequence[Look]) -> Iterator[Detected]:
        """Detections in each look, in its pixels; a batch is made of neighbours that are equally large."""
        own, precision = self.settings.limits is None, self.settings.precision
        network = self.model if own else partial(self.model, limits=self._limits)
        for size, alike in groupby(looks, self._padded_size):
            most = min(self.settings.batch_size, most_images(size))
            while batch := [look.pixels() for look in islice(alike, most)]:
                with evaluating(self.model), computing_in(precision, self.model.dtype, self.model.device):  # type: ignore[arg-type]
                    found = detect_in_views(network, batch, self.settings.flips, self._limits)
                yield from found

    def detections(self, given: Input, found: Sequence[Detected]) -> Detections:
        """The detections in a picture, from what was found in each look at it."""
        thresholds = self.settings.thresholds
        merged = given.looks.merge(found, self.model.head.inclusive_corners, self._limits)
        scores, labels = merged["scores"].float().cpu(), merged["labels"].cpu()
        is_kept = scores >= thresholds[labels]
        most = None if given.looks.grid is None else self.settings.max_detections
        kept = is_kept.nonzero()[:most, 0]
        notes = self._notes(given, found, int(is_kept.sum()) > len(kept))
        return Detections(
            boxes_xyxy=merged["boxes"].float().cpu()[kept],
            scores=scores[kept],
            labels=labels[kept],
            names=self.model.labels,
            image_size=given.picture.size,
            path=given.picture.path,
            source=given.picture.source,
            frame=given.picture.frame,
            time_s=given.picture.time_s,
            picture=given.picture if self.settings.keep_pictures else None,
            notes=notes,
        )

    def _notes(self, given: Input, found: Sequence[Detected], is_picture_full: bool) -> tuple[str, ...]:
        """One line for each reason why something may be missing, which is remembered for a warning."""
        limits, least = self._limits, self.settings.thresholds.min()
        notes: dict[str, str | None] = {
            "shrinking": note_on_shrinking(self.model.config.preprocess, given.picture.size, given.looks.zoom)
        }
        if least > 0:  # 0 asks for the best ones, however many there are
            full = sum(int((each["scores"] >= least).sum()) >= limits.max_detections for each in found)
            tiles = 0 if given.looks.grid is None else len(found) - 1
            notes["limit"] = note_on_limit(limits.max_detections, full, tiles, is_picture_full)
        lines = {reason: line for reason, line in notes.items() if line is not None}
        for reason, line in lines.items():
            self.missed.setdefault(reason, f"{given.picture.source or 'a picture'}: {line}")
        return tuple(lines.values())
