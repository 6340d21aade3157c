"""From pictures of any kind and size to `Detections`: the half of a detector that users call."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

import torch
from PIL import Image

from dyzoo.config import HeadConfig
from dyzoo.errors import ImageError, SettingError
from dyzoo.hub.pretrained import PretrainedModel
from dyzoo.images.detections import Detections
from dyzoo.images.reading import ImageSource, Picture
from dyzoo.images.sources.ahead import default_workers, read_all
from dyzoo.images.sources.base import Reading
from dyzoo.images.sources.given import Given, given_sources
from dyzoo.model.classes import DEFAULT_THRESHOLD, class_thresholds
from dyzoo.model.heads.base import MOST_CANDIDATES, Head, Limits
from dyzoo.model.pipeline import Pipeline, Settings
from dyzoo.model.precision import Precision, check_precision
from dyzoo.model.sizes import Size, network_size
from dyzoo.model.tiles import Tiles, check_tiles
from dyzoo.model.views import Flip, check_flips

if TYPE_CHECKING:
    from typing_extensions import Unpack


class PredictSettings(TypedDict, total=False):
    """Further settings of `PredictingModel.predict`, which says what they are."""

    size: Size
    batch_size: int
    flips: Sequence[Flip]
    classes: Sequence[str] | None
    iou: float | None
    max_detections: int | None
    tiles: Tiles
    precision: Precision | None
    workers: int | None
    frame_stride: int
    keep_pictures: bool
    max_pixels: int | None


class PredictingModel(PretrainedModel):
    """A model that is called in evaluation mode with pictures (3, H, W) and answers with a `Detected` for each."""

    head: Head

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Device of the network."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Type of the weights."""

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
        iou: float | None = None,
        max_detections: int | None = None,
        tiles: Tiles = "off",
        precision: Precision | None = None,
        workers: int | None = None,
        frame_stride: int = 1,
        keep_pictures: bool = False,
        on_error: Literal["raise", "return"] = "raise",
        stream: bool = False,
        max_pixels: int | None = None,
    ) -> Any:
        """Detect objects in pictures of any kind and size.

        The mode of the model, training or evaluation, does not matter and stays; several threads may predict at once.
        On a GPU the network is replayed as a CUDA graph where its batches repeat a size, see docs/predicting.md.

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
                class, then the limit of detections.
            classes: names of the classes to keep; None keeps all.
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
            One `Detections` per image or frame, in order, boxes in pixels of the image given. Their `notes` say where
            something may be missing: objects are as many as `max_detections` allows (nothing is said where the
            threshold is 0, which asks for the best ones), or the picture is seen so small that those of the training's
            size would hardly be. The first of either kind is a `MissedWarning` too.

        Raises:
            ImageError: an image cannot be read, or is too large.
            SettingError: there is no such size, flip, class, threshold, precision, number of workers, stride or
                `on_error`; `tiles`, `iou` or `max_detections` is out of range, or `tiles` is "auto" and the training
                scale is not known.
        """
        if on_error not in ("raise", "return"):
            raise SettingError(f"on_error is {on_error!r}, expected 'raise' or 'return'")
        for name, value, least in (("workers", workers, 0), ("frame_stride", frame_stride, 1)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise SettingError(f"{name} is {value!r}, expected a number of at least {least}")
        pipeline = self.pipeline(
            threshold,
            size,
            batch_size,
            flips,
            classes=classes,
            iou=iou,
            max_detections=max_detections,
            tiles=tiles,
            precision=precision,
            keep_pictures=keep_pictures,
        )
        is_asked_ahead = workers is not None or not isinstance(images, Iterator)
        inputs = read_all(
            given_sources(images),
            Reading(pipeline.least_size, max_pixels, frame_stride, takes_endless=stream),
            pipeline.prepare,
            _workers(images) if workers is None else workers,
            is_asked_ahead,
        )
        answers = pipeline.answers(inputs, is_asked_ahead, on_error == "raise", stacklevel=2 if stream else 3)
        return answers if stream else list(answers)

    def explain(
        self,
        image: ImageSource,
        block: int | None = None,
        level: int | None = None,
        detection: int | None = None,
        threshold: float | Mapping[str, float] = DEFAULT_THRESHOLD,
        size: Size = None,
        *,
        place: tuple[float, float] | None = None,
        classes: Sequence[str] | None = None,
        max_pixels: int | None = None,
    ) -> Any:
        """See what each attention of each DyHead block does to a picture, and what made one detection.

        The blocks are computed in their reference form, step by step, and the gradient of the detection's score is
        taken back through them; see docs/explaining.md. The weights stay as they are, and so do their gradients.

        Args:
            image: a path, array, PIL image or tensor, as for `predict`.
            block, level: those to look at first, counted from 0; None for the last block, and for the level that the
                detection comes from.
            detection: number of the one to explain, counted from 0, the best, as `predict` has them; None for that.
            threshold, size, classes, max_pixels: as for `predict`.
            place: (x, y) in pixels of the picture, to see the sampling points there; None for where the detection
                comes from, or the middle of the picture if nothing was found.

        Returns:
            The `dyzoo.explain.Explanation`: arrays, `.save(folder)` and `.panel(...)`.

        Raises:
            ImageError: the image cannot be read, or the network's input would have more than
                `dyzoo.explain.MOST_PIXELS` pixels.
            SettingError: there is no such block, level, detection, place, size, class or threshold; or the detector
                cannot be explained: it is an ONNX file, has no blocks, or weights of half precision.
        """
        explaining = import_module("dyzoo.explain.explaining")  # which stands above
        return explaining.explain(
            self,
            image,
            block=block,
            level=level,
            detection=detection,
            place=place,
            threshold=threshold,
            size=size,
            classes=classes,
            max_pixels=max_pixels,
        )

    def pipeline(
        self,
        threshold: float | Mapping[str, float] = DEFAULT_THRESHOLD,
        size: Size = None,
        batch_size: int = 1,
        flips: Sequence[Flip] = (),
        *,
        classes: Sequence[str] | None = None,
        iou: float | None = None,
        max_detections: int | None = None,
        tiles: Tiles = "off",
        precision: Precision | None = None,
        keep_pictures: bool = False,
    ) -> Pipeline:
        """The way that pictures go through the network, with the settings of `predict`, which raises as this does."""
        network_size(self.config.preprocess, (1, 1), size)  # a size that is none is said at once
        settings = Settings(
            class_thresholds(self.labels, threshold, classes),
            size,
            max(batch_size, 1),
            check_flips(flips),
            _limits(self.config.head, iou, max_detections),
            max_detections,
            check_tiles(tiles, self.config.preprocess),
            check_precision(precision, self.dtype),
            keep_pictures,
        )
        return Pipeline(self, settings)


def _workers(images: Given) -> int:
    """Threads that read ahead unless the user says how many: none where there is but one picture, and it is here."""
    return 0 if isinstance(images, Picture | Image.Image) else default_workers()


def _limits(config: HeadConfig, iou: float | None, max_detections: int | None) -> Limits | None:
    if iou is not None and (isinstance(iou, bool) or not isinstance(iou, int | float) or not 0 <= iou <= 1):
        raise SettingError(f"iou is {iou!r}, expected a number in 0..1")
    if max_detections is not None and (type(max_detections) is not int or not 1 <= max_detections <= MOST_CANDIDATES):
        raise SettingError(f"max_detections is {max_detections!r}, expected 1 to {MOST_CANDIDATES}")
    if iou is None and max_detections is None:
        return None
    own = Limits.of(config)
    return Limits(own.nms_threshold if iou is None else iou, max_detections or own.max_detections)
