"""From pictures of any kind and size to `Detections`: the half of a detector that users call."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, overload

import torch
from torch import Tensor

from dyzoo.config import HeadConfig, PreprocessConfig
from dyzoo.errors import ImageError
from dyzoo.hub.pretrained import PretrainedModel
from dyzoo.images.detections import Detections
from dyzoo.images.reading import ImageSource, Picture, to_picture
from dyzoo.model.heads.base import MOST_CANDIDATES, Detected, Head, Limits
from dyzoo.model.looks import Look, Looks, least_size, make_looks
from dyzoo.model.missed import MissedWarning, note_on_limit, note_on_shrinking
from dyzoo.model.mode import evaluating
from dyzoo.model.precision import Precision, check_precision, computing_in
from dyzoo.model.sizes import Size, network_size, padded_size
from dyzoo.model.tiles import Tiles, check_tiles
from dyzoo.model.views import Flip, check_flips, detect_in_views

if TYPE_CHECKING:
    from typing_extensions import Unpack


class PredictSettings(TypedDict, total=False):
    """Further settings of `PredictingModel.predict`, which says what they are."""

    size: Size
    batch_size: int
    flips: Sequence[Flip]
    iou: float | None
    max_detections: int | None
    tiles: Tiles
    precision: Precision | None
    max_pixels: int | None


class PredictingModel(PretrainedModel):
    """A model that is called in evaluation mode with pictures (3, H, W) and answers with a `Detected` for each."""

    head: Head

    @overload
    def predict(
        self,
        images: ImageSource | Iterable[ImageSource],
        threshold: float = ...,
        *,
        on_error: Literal["raise"] = ...,
        stream: Literal[False] = ...,
        **settings: Unpack[PredictSettings],
    ) -> list[Detections]: ...
    @overload
    def predict(
        self,
        images: ImageSource | Iterable[ImageSource],
        threshold: float = ...,
        *,
        on_error: Literal["return"],
        stream: Literal[False] = ...,
        **settings: Unpack[PredictSettings],
    ) -> list[Detections | ImageError]: ...
    @overload
    def predict(
        self,
        images: ImageSource | Iterable[ImageSource],
        threshold: float = ...,
        *,
        on_error: Literal["raise"] = ...,
        stream: Literal[True],
        **settings: Unpack[PredictSettings],
    ) -> Iterator[Detections]: ...
    @overload
    def predict(
        self,
        images: ImageSource | Iterable[ImageSource],
        threshold: float = ...,
        *,
        on_error: Literal["return"],
        stream: Literal[True],
        **settings: Unpack[PredictSettings],
    ) -> Iterator[Detections | ImageError]: ...
    def predict(
        self,
        images: ImageSource | Iterable[ImageSource],
        threshold: float = 0.3,
        size: Size = None,
        batch_size: int = 1,
        flips: Sequence[Flip] = (),
        *,
        iou: float | None = None,
        max_detections: int | None = None,
        tiles: Tiles = "off",
        precision: Precision | None = None,
        on_error: Literal["raise", "return"] = "raise",
        stream: bool = False,
        max_pixels: int | None = None,
    ) -> Any:
        """Detect objects in pictures of any kind and size.

        The mode of the model, training or evaluation, does not matter and stays; several threads may predict at once.

        Args:
            images: paths, PIL images, (H, W[, C]) arrays or (3, H, W) tensors; one or several, from any iterable. A
                JPEG of more than `dyzoo.images.reading.REDUCED_ABOVE` pixels is decoded at a reduced scale.
            threshold: detections of a lower score are left out.
            size: shortest edge in pixels to resize to (the longest edge keeps the configured proportion), "native" to
                feed images unresized, None for the size the model was trained at.
            batch_size: images per forward pass. Images of a batch are padded to the largest one; where that makes
                more than `dyzoo.model.sizes.MAX_BATCH_PIXELS`, they go one by one.
            flips: further views to detect in, "horizontal" or "vertical" or both, each for the time of one more
                forward pass. What is found in all views is merged as mmdetection's `DetTTAModel` does it: NMS per
                class, then the limit of detections.
            iou: IoU above which, of two boxes of a class, the one of the lower score goes; None for the head's own.
            max_detections: most detections of a picture; None for the head's own number (100 in most), with tiles in
                each of them and no limit for the picture.
            tiles: see a large picture in parts. "auto" cuts it into overlapping tiles as large as the pictures that the
                detector was trained on, but only where it would see the whole at less than half of the scale of the
                training, `config.preprocess.training_scale`; a number N cuts every picture into N x N. `size` is
                that of a tile then, and `batch_size` tiles are seen at a time. The whole is looked at too, for
                objects larger than the tiles. An object at a seam is found once, see `dyzoo.model.seams`.
            precision: "bf16" or "fp16" computes in less than float32, by autocast; boxes and scores are float32 all the
                same. None: as the weights are.
            on_error: "return" gives the `ImageError` of an image that cannot be used in the place of its
                `Detections`, so that the others still come out; "raise" raises it.
            stream: give an iterator, which reads a batch when it is asked for and keeps nothing of it.
            max_pixels: an image file of more is not decoded; None for `dyzoo.images.reading.MAX_PIXELS`.

        Returns:
            One `Detections` per image, in order, boxes in pixels of the image given. Their `notes` say where
            something may be missing: objects are as many as `max_detections` allows (nothing is said where the
            threshold is 0, which asks for the best ones), or the picture is seen so small that those of the training's
            size would hardly be. The first of either kind is a `MissedWarning` too.

        Raises:
            ImageError: an image cannot be read, or is too large.
            ValueError: there is no such size, flip, precision or `on_error`; `tiles`, `iou` or `max_detections` is out
                of range, or `tiles` is "auto" and the training scale is not known.
        """
        if on_error not in ("raise", "return"):
            raise ValueError(f"on_error is {on_error!r}, expected 'raise' or 'return'")
        network_size(self.config.preprocess, (1, 1), size)  # a size that is none is said at once
        sources = [images] if isinstance(images, ImageSource) else images
        settings = _Settings(
            threshold,
            size,
            check_flips(flips),
            _limits(self.config.head, iou, max_detections),
            max_detections,
            check_tiles(tiles, self.config.preprocess),
            check_precision(precision, next(self.parameters()).dtype),
            on_error,
            max_pixels,
        )
        answers = self._predict_all(sources, max(batch_size, 1), settings, stacklevel=2 if stream else 3)
        return answers if stream else list(answers)

    def _predict_all(
        self, sources: Iterable[ImageSource], batch_size: int, settings: _Settings, stacklevel: int
    ) -> Iterator[Detections | ImageError]:
        remaining = iter(sources)
        warned: set[str] = set()
        while chunk := list(islice(remaining, batch_size)):
            answers = self._predict_batch(chunk, batch_size, settings)
            for reason in settings.missed.keys() - warned:
                warned.add(reason)
                warnings.warn(settings.missed[reason], MissedWarning, stacklevel)
            yield from answers

    @torch.inference_mode()
    def _predict_batch(
        self, sources: Sequence[ImageSource], batch_size: int, settings: _Settings
    ) -> list[Detections | ImageError]:
        answers: dict[int, Detections | ImageError] = {}
        inputs: dict[int, _Input] = {}
        for place, source in enumerate(sources):
            try:
                inputs[place] = self._read(source, settings)
            except ImageError as error:
                if settings.on_error == "raise":
                    raise
                answers[place] = error.with_traceback(None)  # which would keep all that its frames hold
        looks = [look for given in inputs.values() for look in given.looks.looks]
        found = self._look(looks, batch_size, settings)
        for place, given in inputs.items():
            answers[place] = self._detections(given, list(islice(found, len(given.looks.looks))), settings)
        return [answers[place] for place in range(len(sources))]

    def _look(self, looks: Sequence[Look], batch_size: int, settings: _Settings) -> Iterator[Detected]:
        """Detections in each look, in its pixels."""
        limits, weights = settings.limits, next(self.parameters())
        network = self if limits is None else partial(self, limits=limits)
        for start in range(0, len(looks), batch_size):
            pictures = [look.pixels() for look in looks[start : start + batch_size]]
            batches = [pictures] if _fits(pictures, self.config.preprocess) else [[picture] for picture in pictures]
            for batch in batches:
                with evaluating(self), computing_in(settings.precision, weights.dtype, weights.device):
                    found = detect_in_views(network, batch, settings.flips, limits or Limits.of(self.config.head))
                yield from found

    def _read(self, source: ImageSource, settings: _Settings) -> _Input:
        """One picture as the network is to see it. Raises `ImageError`."""
        config, size, tiles = self.config.preprocess, settings.size, settings.tiles
        picture = to_picture(source, lambda given: least_size(config, given, size, tiles), settings.max_pixels)
        return _Input(make_looks(picture, config, size, tiles), picture)

    def _detections(self, given: _Input, found: Sequence[Detected], settings: _Settings) -> Detections:
        limits = settings.limits or Limits.of(self.config.head)
        merged = given.looks.merge(found, self.head.inclusive_corners, limits)
        kept = merged["scores"] >= settings.threshold
        full = sum(int((f["scores"] >= settings.threshold).sum()) >= limits.max_detections for f in found)
        tiles = 0 if given.looks.grid is None else len(found) - 1
        limit = settings.max_detections if tiles else None
        too_many = limit is not None and int(kept.sum()) > limit
        note = note_on_limit(limits.max_detections, full, tiles, too_many)
        notes = {
            "limit": note if settings.threshold > 0 else None,
            "shrinking": note_on_shrinking(self.config.preprocess, given.picture.size, given.looks.zoom),
        }
        kept = kept.nonzero()[:limit, 0]
        for reason, note in notes.items():
            if note is not None:
                settings.missed.setdefault(reason, f"{given.picture.source or 'a picture'}: {note}")
        return Detections(
            boxes_xyxy=merged["boxes"][kept].float().cpu(),
            scores=merged["scores"][kept].float().cpu(),
            labels=merged["labels"][kept].cpu(),
            names=self.labels,
            image_size=given.picture.size,
            path=given.picture.path,
            source=given.picture.source,
            frame=given.picture.frame,
            time_s=given.picture.time_s,
            notes=tuple(filter(None, notes.values())),
        )


@dataclass(frozen=True)
class _Settings:
    """Settings of one call of `predict`."""

    threshold: float
    size: Size
    flips: tuple[Flip, ...]
    limits: Limits | None  # None: the head's own
    max_detections: int | None
    tiles: Tiles
    precision: Precision | None
    on_error: Literal["raise", "return"]
    max_pixels: int | None
    missed: dict[str, str] = field(default_factory=dict)  # reason -> the first line that says so


class _Input(NamedTuple):
    """A picture and how the network looks at it."""

    looks: Looks
    picture: Picture


def _limits(config: HeadConfig, iou: float | None, max_detections: int | None) -> Limits | None:
    if iou is not None and (isinstance(iou, bool) or not isinstance(iou, int | float) or not 0 <= iou <= 1):
        raise ValueError(f"iou is {iou!r}, expected a number in 0..1")
    if max_detections is not None and (type(max_detections) is not int or not 1 <= max_detections <= MOST_CANDIDATES):
        raise ValueError(f"max_detections is {max_detections!r}, expected 1 to {MOST_CANDIDATES}")
    if iou is None and max_detections is None:
        return None
    own = Limits.of(config)
    return Limits(own.nms_threshold if iou is None else iou, max_detections or own.max_detections)


def _fits(pictures: Sequence[Tensor], config: PreprocessConfig) -> bool:
    try:
        padded_size([(p.shape[1], p.shape[2]) for p in pictures], config.size_divisor)
    except ImageError:
        return False
    return True
