"""From pictures of any kind and size to `Detections`: the half of a detector that users call."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, overload

import torch
from PIL import Image
from torch import Tensor

from dyzoo.config import PreprocessConfig
from dyzoo.errors import ImageError
from dyzoo.hub.pretrained import PretrainedModel
from dyzoo.images.detections import Detections
from dyzoo.images.reading import Picture
from dyzoo.images.sources.ahead import default_workers, read_all
from dyzoo.images.sources.base import Reading
from dyzoo.images.sources.given import Given, given_sources
from dyzoo.model.batches import in_batches
from dyzoo.model.classes import DEFAULT_THRESHOLD, class_limits
from dyzoo.model.heads.base import Detected, Head
from dyzoo.model.looks import Look, make_looks, merge_looks
from dyzoo.model.mode import evaluating
from dyzoo.model.sizes import Size, network_size, padded_size
from dyzoo.model.views import Flip, check_flips, detect_in_views

if TYPE_CHECKING:
    from typing_extensions import Unpack


_WINDOW = 4  # batches among whose pictures equally large ones are looked for
_NO_IMAGE = Image.new("RGB", (1, 1))


class PredictSettings(TypedDict, total=False):
    """Further settings of `PredictingModel.predict`, which says what they are."""

    size: Size
    batch_size: int
    flips: Sequence[Flip]
    classes: Sequence[str] | None
    workers: int | None
    frame_stride: int
    keep_pictures: bool
    max_pixels: int | None


class PredictingModel(PretrainedModel):
    """A model that is called in evaluation mode with pictures (3, H, W) and answers with a `Detected` for each."""

    head: Head

    @overload
    def predict(
        self,
        images: Given,
        threshold: float | Mapping[str, float] = ...,
        *,
        on_error: Literal["raise"] = ...,
        stream: Literal[False] = ...,
        **settings: Unpack[PredictSettings],
    ) -> list[Detections]: ...
    @overload
    def predict(
        self,
        images: Given,
        threshold: float | Mapping[str, float] = ...,
        *,
        on_error: Literal["return"],
        stream: Literal[False] = ...,
        **settings: Unpack[PredictSettings],
    ) -> list[Detections | ImageError]: ...
    @overload
    def predict(
        self,
        images: Given,
        threshold: float | Mapping[str, float] = ...,
        *,
        on_error: Literal["raise"] = ...,
        stream: Literal[True],
        **settings: Unpack[PredictSettings],
    ) -> Iterator[Detections]: ...
    @overload
    def predict(
        self,
        images: Given,
        threshold: float | Mapping[str, float] = ...,
        *,
        on_error: Literal["return"],
        stream: Literal[True],
        **settings: Unpack[PredictSettings],
    ) -> Iterator[Detections | ImageError]: ...
    def predict(
        self,
        images: Given,
        threshold: float | Mapping[str, float] = DEFAULT_THRESHOLD,
        size: Size = None,
        batch_size: int = 1,
        flips: Sequence[Flip] = (),
        *,
        classes: Sequence[str] | None = None,
        workers: int | None = None,
        frame_stride: int = 1,
        keep_pictures: bool = False,
        on_error: Literal["raise", "return"] = "raise",
        stream: bool = False,
        max_pixels: int | None = None,
    ) -> Any:
        """Detect objects in pictures of any kind and size.

        The mode of the model, training or evaluation, does not matter and stays; several threads may predict at once.

        Args:
            images: one or several, from any iterable: image and film files, folders, globs, lists of files, zip
                archives, addresses of images, films and streams, indices of cameras, the bytes of image files, PIL
                images, (H, W[, C]) arrays, (3, H, W) tensors, batches (N, 3, H, W); docs/predicting.md says more of
                each. A JPEG of more than `dyzoo.images.reading.REDUCED_ABOVE` pixels is decoded at a reduced scale.
            threshold: detections of a lower score are left out. A mapping has one for each class by name; classes
                that it lacks keep 0.3.
            size: shortest edge in pixels to resize to (the longest edge keeps the configured proportion), "native" to
                feed images unresized, None for the size the model was trained at.
            batch_size: images per forward pass. A batch is made of images that are equally large when they are padded
                for the network, found among the next few, so that no image's padding depends on another; where it has
                more than `dyzoo.model.sizes.MAX_BATCH_PIXELS`, its images go one by one.
            flips: further views to detect in, "horizontal" or "vertical" or both, each for the time of one more
                forward pass. What is found in all views is merged as mmdetection's `DetTTAModel` does it: NMS per
                class at the head's own IoU threshold, then the head's limit of detections.
            classes: names of the classes to keep; None keeps all.
            workers: threads that read, decode and resize the next pictures while the network is busy; 0 reads each
                when it is needed, None takes up to four. A generator or other iterator is asked ahead of need only
                where a number is given. The answers are the same.
            frame_stride: every n-th frame of films and streams.
            keep_pictures: keep each picture as `Detections.picture`.
            on_error: "return" gives the `ImageError` of an image that cannot be used in the place of its
                `Detections`, so that the others still come out; "raise" raises it.
            stream: give an iterator, which keeps nothing of what it has given; cameras and live streams need it.
            max_pixels: an image file of more is not decoded; None for `dyzoo.images.reading.MAX_PIXELS`.

        Returns:
            One `Detections` per image or frame, in order, boxes in pixels of the image given.

        Raises:
            ImageError: an image cannot be read, or is too large.
            ValueError: there is no such size, flip, class, threshold, number of workers, stride or `on_error`.
        """
        if on_error not in ("raise", "return"):
            raise ValueError(f"on_error is {on_error!r}, expected 'raise' or 'return'")
        network_size(self.config.preprocess, (1, 1), size)  # a size that is none is said at once
        settings = _Settings(
            class_limits(self.labels, threshold, classes), size, check_flips(flips), max(batch_size, 1), keep_pictures
        )
        for name, value, least in (("workers", workers, 0), ("frame_stride", frame_stride, 1)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ValueError(f"{name} is {value!r}, expected a number of at least {least}")
        reading = Reading(
            lambda image_size: network_size(self.config.preprocess, image_size, size),
            max_pixels,
            frame_stride,
            takes_endless=stream,
        )
        is_asked_ahead = workers is not None or not isinstance(images, Iterator)
        inputs = read_all(
            given_sources(images),
            reading,
            lambda picture: self._prepare(picture, settings),
            _workers(images) if workers is None else workers,
            is_asked_ahead,
        )
        answers = self._predict_all(inputs, settings, is_asked_ahead, on_error == "raise")
        return answers if stream else list(answers)

    def _predict_all(
        self, inputs: Generator[_Input | ImageError], settings: _Settings, is_asked_ahead: bool, raises: bool
    ) -> Iterator[Detections | ImageError]:
        within = settings.batch_size * (_WINDOW if is_asked_ahead and settings.batch_size > 1 else 1)
        divisor = self.config.preprocess.size_divisor
        with closing(inputs):
            for answer in in_batches(
                inputs,
                lambda given: given.padded(divisor),
                lambda batch: self._predict_batch(batch, settings),
                settings.batch_size,
                within,
            ):
                if raises and isinstance(answer, ImageError):
                    raise answer
                yield answer

    @torch.inference_mode()
    def _predict_batch(self, inputs: Sequence[_Input], settings: _Settings) -> list[Detections]:
        looks = [look for given in inputs for look in given.looks]
        found = iter(list(self._look(looks, settings.batch_size, settings.flips)))
        return [self._detections(given, list(islice(found, len(given.looks))), settings) for given in inputs]

    def _look(self, looks: Sequence[Look], batch_size: int, flips: Sequence[Flip]) -> Iterator[Detected]:
        """Detections in each look, in its pixels."""
        for start in range(0, len(looks), batch_size):
            pictures = [look.pixels for look in looks[start : start + batch_size]]
            batches = [pictures] if _fits(pictures, self.config.preprocess) else [[picture] for picture in pictures]
            for batch in batches:
                with evaluating(self):
                    found = detect_in_views(self, batch, flips, self.config.head)
                yield from found

    def _prepare(self, picture: Picture, settings: _Settings) -> _Input:
        """One picture as the network is to see it. Raises `ImageError`."""
        looks = make_looks(picture, self.config.preprocess, settings.size)
        return _Input(looks, picture if settings.keep_pictures else replace(picture, image=_NO_IMAGE))

    def _detections(self, given: _Input, found: Sequence[Detected], settings: _Settings) -> Detections:
        merged = merge_looks(given.looks, found, self.head.inclusive_corners)
        scores, labels = merged["scores"].float().cpu(), merged["labels"].cpu()
        kept = scores >= settings.limits[labels]
        return Detections(
            boxes_xyxy=merged["boxes"].float().cpu()[kept],
            scores=scores[kept],
            labels=labels[kept],
            names=self.labels,
            image_size=given.picture.size,
            path=given.picture.path,
            source=given.picture.source,
            frame=given.picture.frame,
            time_s=given.picture.time_s,
            picture=given.picture if settings.keep_pictures else None,
        )


@dataclass(frozen=True)
class _Settings:
    """Settings of one call of `predict`; `limits` has the least score of each class (C,)."""

    limits: Tensor
    size: Size
    flips: tuple[Flip, ...]
    batch_size: int
    keep_pictures: bool


class _Input(NamedTuple):
    """How the network looks at a picture, and the picture, without its pixels unless they are to be kept."""

    looks: list[Look]
    picture: Picture

    def padded(self, divisor: int) -> object:
        """The key that pictures of one batch share: their size in the network; its own where looks differ."""
        sizes = {padded_size([(look.pixels.shape[1], look.pixels.shape[2])], divisor) for look in self.looks}
        return sizes.pop() if len(sizes) == 1 else object()


def _workers(images: Given) -> int:
    """Threads that read ahead unless the user says how many: none where there is but one picture, and it is here."""
    return 0 if isinstance(images, Picture | Image.Image) else default_workers()


def _fits(pictures: Sequence[Tensor], config: PreprocessConfig) -> bool:
    try:
        padded_size([(p.shape[1], p.shape[2]) for p in pictures], config.size_divisor)
    except ImageError:
        return False
    return True
