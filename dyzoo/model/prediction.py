"""From pictures of any kind and size to `Detections`: the half of a detector that users call."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as TF

from dyzoo.config import PreprocessConfig
from dyzoo.errors import ImageError
from dyzoo.hub.pretrained import PretrainedModel
from dyzoo.images.detections import Detections
from dyzoo.images.reading import ImageSource, to_picture
from dyzoo.model.heads.base import Detected, Head
from dyzoo.model.heads.dense import suppress
from dyzoo.model.preprocess import map_to_image, resize_image
from dyzoo.model.sizes import MAX_BATCH_PIXELS, padded_size, resized_size

Flip = Literal["horizontal", "vertical"]
Size = int | Literal["native"] | None

_FLIPPED_DIMENSION: dict[Flip, int] = {"horizontal": -1, "vertical": -2}  # of a picture (3, H, W)


class PredictingModel(PretrainedModel):
    """A model that is called in evaluation mode with pictures (3, H, W) and answers with a `Detected` for each."""

    head: Head

    @overload
    def predict(
        self,
        images: ImageSource | Iterable[ImageSource],
        threshold: float = ...,
        size: Size = ...,
        batch_size: int = ...,
        flips: Sequence[Flip] = ...,
        *,
        on_error: Literal["raise"] = ...,
        stream: Literal[False] = ...,
        max_pixels: int | None = ...,
    ) -> list[Detections]: ...
    @overload
    def predict(
        self,
        images: ImageSource | Iterable[ImageSource],
        threshold: float = ...,
        size: Size = ...,
        batch_size: int = ...,
        flips: Sequence[Flip] = ...,
        *,
        on_error: Literal["return"],
        stream: Literal[False] = ...,
        max_pixels: int | None = ...,
    ) -> list[Detections | ImageError]: ...
    @overload
    def predict(
        self,
        images: ImageSource | Iterable[ImageSource],
        threshold: float = ...,
        size: Size = ...,
        batch_size: int = ...,
        flips: Sequence[Flip] = ...,
        *,
        on_error: Literal["raise"] = ...,
        stream: Literal[True],
        max_pixels: int | None = ...,
    ) -> Iterator[Detections]: ...
    @overload
    def predict(
        self,
        images: ImageSource | Iterable[ImageSource],
        threshold: float = ...,
        size: Size = ...,
        batch_size: int = ...,
        flips: Sequence[Flip] = ...,
        *,
        on_error: Literal["return"],
        stream: Literal[True],
        max_pixels: int | None = ...,
    ) -> Iterator[Detections | ImageError]: ...
    def predict(
        self,
        images: ImageSource | Iterable[ImageSource],
        threshold: float = 0.3,
        size: Size = None,
        batch_size: int = 1,
        flips: Sequence[Flip] = (),
        *,
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
        if isinstance(flips, str) or any(flip not in _FLIPPED_DIMENSION for flip in flips):
            raise ValueError(f"flips is {flips!r}, expected a list with 'horizontal', 'vertical' or both")
        network_size(self.config.preprocess, (1, 1), size)  # a size that is none is said at once
        sources = [images] if isinstance(images, ImageSource) else images
        settings = _Settings(threshold, size, (None, *dict.fromkeys(flips)), on_error, max_pixels)
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
        batches = [list(inputs)] if inputs else []
        if not _fits([each.pixels for each in inputs.values()], self.config.preprocess):
            batches = [[place] for place in inputs]
        for places in batches:
            with evaluating(self):
                merged = self._detect_in_views([inputs[place].pixels for place in places], settings.views)
            for place, found in zip(places, merged, strict=True):
                answers[place] = self._detections(inputs[place], found, settings.threshold)
        return [answers[place] for place in range(len(sources))]

    def _read(self, source: ImageSource, settings: _Settings) -> _Input:
        """One picture as the network is to see it. Raises `ImageError`."""

        def size_in_network(image_size: tuple[int, int]) -> tuple[int, int]:
            return network_size(self.config.preprocess, image_size, settings.size)

        picture = to_picture(source, size_in_network, settings.max_pixels)
        resized = size_in_network(picture.size)
        padded_size([resized], self.config.preprocess.size_divisor)  # refuses it before anything of that size is made
        return _Input(resize_image(TF.pil_to_tensor(picture.image), resized), picture.size, picture.path)

    def _detections(self, given: _Input, found: Detected, threshold: float) -> Detections:
        kept = found["scores"] >= threshold
        network_size = (given.pixels.shape[1], given.pixels.shape[2])
        boxes = map_to_image(found["boxes"][kept], network_size, given.size, self.head.inclusive_corners)
        return Detections(
            boxes_xyxy=boxes.float().cpu(),
            scores=found["scores"][kept].float().cpu(),
            labels=found["labels"][kept].cpu(),
            names=self.labels,
            image_size=given.size,
            path=given.path,
        )

    def _detect_in_views(self, pictures: Sequence[Tensor], views: Sequence[Flip | None]) -> list[Detected]:
        """Detections in the resized pictures (3, H, W) and their flips, in pixels of the pictures as they are."""
        of_views = [self._detect_in_view(pictures, view) for view in views]
        if len(of_views) == 1:
            return of_views[0]
        head, merged = self.config.head, []
        for picture, *of_picture in zip(pictures, *of_views, strict=True):
            boxes, scores, labels = (torch.cat([v[kind] for v in of_picture]) for kind in ("boxes", "scores", "labels"))
            merged.append(
                suppress(
                    boxes,
                    scores,
                    labels,
                    (picture.shape[1], picture.shape[2]),
                    clip_before_nms=True,  # changes nothing: the head has clipped them
                    nms_threshold=head.nms_threshold,
                    max_detections=head.max_detections,
                )
            )
        return merged

    def _detect_in_view(self, pictures: Sequence[Tensor], flip: Flip | None) -> list[Detected]:
        if flip is None:
            return self(pictures)
        # Flipped before they are padded: the padding is at the right and the bottom of every view.
        found = self([picture.flip(_FLIPPED_DIMENSION[flip]) for picture in pictures])
        return [_flip_back(f, picture, flip) for f, picture in zip(found, pictures, strict=True)]


@dataclass(frozen=True)
class _Settings:
    """Settings of one call of `predict`; None among the views is the picture as it is."""

    threshold: float
    size: Size
    views: tuple[Flip | None, ...]
    on_error: Literal["raise", "return"]
    max_pixels: int | None


class _Input(NamedTuple):
    """A picture (3, h, w) as the network is to see it, with the (H, W) and the path of what was given."""

    pixels: Tensor
    size: tuple[int, int]
    path: Path | None


@dataclass
class _Use:
    """Number of threads that predict with a model, and its parts that were in training mode before the first did."""

    users: int = 0
    training: list[nn.Module] = field(default_factory=list)


_uses: WeakKeyDictionary[nn.Module, _Use] = WeakKeyDictionary()
_uses_lock = threading.Lock()  # here, since a model with a lock could be neither copied nor pickled


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode while any thread is in here; the last one to leave puts each part back as the first found it."""
    with _uses_lock:
        use = _uses.setdefault(model, _Use())
        if not use.users:
            use.training = [module for module in model.modules() if module.training]
            for module in use.training:
                module.training = False
        use.users += 1
    try:
        yield
    finally:
        with _uses_lock:
            use.users -= 1
            if not use.users:
                for module in use.training:
                    module.training = True
                del _uses[model]


def network_size(config: PreprocessConfig, image_size: tuple[int, int], size: Size) -> tuple[int, int]:
    """(H, W) that an image of that (H, W) is resized to for `predict(size=size)`. Raises `ValueError`: no such size."""
    if size == "native":
        return image_size
    shortest = config.shortest_edge if size is None else size
    if isinstance(shortest, bool) or not isinstance(shortest, int) or shortest < 1:
        raise ValueError(f"size is {size!r}, expected a number of pixels, 'native' or None")
    if shortest * shortest > MAX_BATCH_PIXELS:
        raise ValueError(f"size is {shortest}, expected at most {int(MAX_BATCH_PIXELS**0.5)} pixels")
    return resized_size(*image_size, shortest, config.at(shortest).longest_edge)


def _fits(pictures: Sequence[Tensor], config: PreprocessConfig) -> bool:
    try:
        padded_size([(p.shape[1], p.shape[2]) for p in pictures], config.size_divisor)
    except ImageError:
        return False
    return True


def _flip_back(found: Detected, picture: Tensor, flip: Flip) -> Detected:
    """Boxes of a flipped picture (3, H, W) in pixels of the picture; edges change places, as x1 is the left one."""
    length_px = picture.shape[_FLIPPED_DIMENSION[flip]]
    x1, y1, x2, y2 = found["boxes"].unbind(1)
    if flip == "horizontal":
        x1, x2 = length_px - x2, length_px - x1
    else:
        y1, y2 = length_px - y2, length_px - y1
    return {**found, "boxes": torch.stack([x1, y1, x2, y2], dim=1)}
