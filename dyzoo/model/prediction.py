"""From pictures of any kind and size to `Detections`: the half of a detector that users call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, overload

import torch
from torch import Tensor

from dyzoo.config import PreprocessConfig
from dyzoo.errors import ImageError
from dyzoo.hub.pretrained import PretrainedModel
from dyzoo.images.detections import Detections
from dyzoo.images.reading import ImageSource, Picture, to_picture
from dyzoo.model.heads.base import Detected, Head
from dyzoo.model.looks import Look, make_looks, merge_looks
from dyzoo.model.mode import evaluating
from dyzoo.model.sizes import Size, network_size, padded_size
from dyzoo.model.views import Flip, check_flips, detect_in_views

if TYPE_CHECKING:
    from typing_extensions import Unpack


class PredictSettings(TypedDict, total=False):
    """Further settings of `PredictingModel.predict`, which says what they are."""

    size: Size
    batch_size: int
    flips: Sequence[Flip]
    keep_pictures: bool
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
        keep_pictures: bool = False,
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
                class at the head's own IoU threshold, then the head's limit of detections.
            keep_pictures: keep each image as `Detections.picture`, to draw on without reading it again.
            on_error: "return" gives the `ImageError` of an image that cannot be used in the place of its
                `Detections`, so that the others still come out; "raise" raises it.
            stream: give an iterator, which reads a batch when it is asked for and keeps nothing of it.
            max_pixels: an image file of more is not decoded; None for `dyzoo.images.reading.MAX_PIXELS`.

        Returns:
            One `Detections` per image, in order, boxes in pixels of the image given.

        Raises:
            ImageError: an image cannot be read, or is too large.
            ValueError: there is no such size, flip or `on_error`.
        """
        if on_error not in ("raise", "return"):
            raise ValueError(f"on_error is {on_error!r}, expected 'raise' or 'return'")
        network_size(self.config.preprocess, (1, 1), size)  # a size that is none is said at once
        sources = [images] if isinstance(images, ImageSource) else images
        settings = _Settings(threshold, size, check_flips(flips), keep_pictures, on_error, max_pixels)
        answers = self._predict_all(sources, max(batch_size, 1), settings)
        return answers if stream else list(answers)

    def _predict_all(
        self, sources: Iterable[ImageSource], batch_size: int, settings: _Settings
    ) -> Iterator[Detections | ImageError]:
        remaining = iter(sources)
        while chunk := list(islice(remaining, batch_size)):
            yield from self._predict_batch(chunk, settings)

    @torch.inference_mode()
    def _predict_batch(self, sources: Sequence[ImageSource], settings: _Settings) -> list[Detections | ImageError]:
        answers: dict[int, Detections | ImageError] = {}
        inputs: dict[int, _Input] = {}
        for place, source in enumerate(sources):
            try:
                inputs[place] = self._read(source, settings)
            except ImageError as error:
                if settings.on_error == "raise":
                    raise
                answers[place] = error.with_traceback(None)  # which would keep all that its frames hold
        looks = [look for given in inputs.values() for look in given.looks]
        found = iter(self._look(looks, len(sources), settings.flips))
        for place, given in inputs.items():
            answers[place] = self._detections(given, list(islice(found, len(given.looks))), settings)
        return [answers[place] for place in range(len(sources))]

    def _look(self, looks: Sequence[Look], batch_size: int, flips: Sequence[Flip]) -> Iterator[Detected]:
        """Detections in each look, in its pixels."""
        for start in range(0, len(looks), batch_size):
            pictures = [look.pixels for look in looks[start : start + batch_size]]
            batches = [pictures] if _fits(pictures, self.config.preprocess) else [[picture] for picture in pictures]
            for batch in batches:
                with evaluating(self):
                    found = detect_in_views(self, batch, flips, self.config.head)
                yield from found

    def _read(self, source: ImageSource, settings: _Settings) -> _Input:
        """One picture as the network is to see it. Raises `ImageError`."""
        config = self.config.preprocess
        picture = to_picture(source, lambda size: network_size(config, size, settings.size), settings.max_pixels)
        return _Input(make_looks(picture, config, settings.size), picture)

    def _detections(self, given: _Input, found: Sequence[Detected], settings: _Settings) -> Detections:
        merged = merge_looks(given.looks, found, self.head.inclusive_corners)
        kept = merged["scores"] >= settings.threshold
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
            picture=given.picture if settings.keep_pictures else None,
        )


@dataclass(frozen=True)
class _Settings:
    """Settings of one call of `predict`."""

    threshold: float
    size: Size
    flips: tuple[Flip, ...]
    keep_pictures: bool
    on_error: Literal["raise", "return"]
    max_pixels: int | None


class _Input(NamedTuple):
    """A picture and how the network looks at it."""

    looks: list[Look]
    picture: Picture


def _fits(pictures: Sequence[Tensor], config: PreprocessConfig) -> bool:
    try:
        padded_size([(p.shape[1], p.shape[2]) for p in pictures], config.size_divisor)
    except ImageError:
        return False
    return True
