"""From pictures to a model's input, and from its outputs to boxes in pixels of the pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BaseImageProcessor, BatchFeature

from dyzoo.config import PreprocessConfig
from dyzoo.config.transformers_keys import auto_map, without_repositories
from dyzoo.config.values import build, shown
from dyzoo.errors import CheckpointError
from dyzoo.files import write_text
from dyzoo.hf_transformers.annotations import to_labels
from dyzoo.hf_transformers.boxes import from_shares
from dyzoo.hub.ids import CONFIG_NAME
from dyzoo.hub.pretrained import read_config
from dyzoo.hub.remote_code import PROCESSOR_NAME, processor_json, processor_values
from dyzoo.images.reading import ImageSource, Picture, to_picture
from dyzoo.model.looks import make_looks
from dyzoo.model.preprocess import batch_images, map_to_image
from dyzoo.model.sizes import network_size

_SETTINGS = tuple(field.name for field in fields(PreprocessConfig))
_NOT_SETTINGS = ("image_processor_type", "processor_class", "_processor_class")  # transformers' own
_EXPECTED = "a picture or a list of pictures: paths, PIL images, arrays (H, W, 3), tensors (3, H, W)"


class DyzooImageProcessor(BaseImageProcessor):
    """Resizes, normalises and pads pictures as `Detector.predict` does, and brings boxes back to their pixels.

    Args:
        inclusive_corners: boxes end at the last pixel inside them while they are brought to another size, as GLIP's do.
        values: fields of `dyzoo.config.PreprocessConfig`; each is an attribute.

    Raises:
        CheckpointError: one is unknown, of a wrong type or out of its range.
    """

    model_input_names = ["pixel_values", "pixel_mask"]  # noqa: RUF012 (transformers' form)

    def __init__(self, inclusive_corners: bool = False, **values: Any) -> None:
        super().__init__()
        settings = {name: value for name, value in values.items() if name not in _NOT_SETTINGS}
        expected = auto_map("AutoImageProcessor")
        told = without_repositories(settings.pop("auto_map", expected))
        if told != expected:
            raise CheckpointError(f"{PROCESSOR_NAME}: auto_map is {shown(told)}, expected {expected}, or no auto_map")
        if not isinstance(inclusive_corners, bool):
            raise CheckpointError(f"{PROCESSOR_NAME}: inclusive_corners is {shown(inclusive_corners)}, expected bool")
        config = build(PreprocessConfig, settings, f"{PROCESSOR_NAME}: ")
        self.inclusive_corners = inclusive_corners
        for name, value in asdict(config).items():
            setattr(self, name, value)

    @classmethod
    def from_dict(cls, image_processor_dict: Mapping[str, Any], **options: Any) -> Any:
        """As in transformers; fields of `PreprocessConfig` among the options replace those of the file."""
        changed = {name: options.pop(name) for name in (*_SETTINGS, "inclusive_corners") if name in options}
        return super().from_dict({**image_processor_dict, **changed}, **options)

    @property
    def config(self) -> PreprocessConfig:
        """The settings, checked. Raises `CheckpointError`: one was set to what it cannot be."""
        return build(PreprocessConfig, {name: getattr(self, name) for name in _SETTINGS}, "the image processor: ")

    def preprocess(
        self,
        images: ImageSource | Sequence[ImageSource],
        annotations: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """Make a model's input of pictures.

        Args:
            images: one or several: paths, PIL images (turned as their EXIF tag says), arrays (H, W[, C]), tensors
                (3, H, W), of any size and kind that `Detector.predict` takes.
            annotations: of each picture, in COCO's form, see `dyzoo.hf_transformers.annotations.to_labels`.
            return_tensors: "pt" or "np".

        Returns:
            "pixel_values" (N, 3, H, W) float32, padded at the right and the bottom; "pixel_mask" (N, H, W) int64, 1 on
            the picture and 0 on the padding; with annotations "labels", a list of N dicts.

        Raises:
            ImageError: a picture cannot be read, or the batch is too large.
            ValueError: annotations are not as many as pictures, or cannot be used.
        """
        config = self.config
        pictures = [self.read(image) for image in _listed(images)]
        looks = [make_looks(picture, config, None, "off").looks[0] for picture in pictures]
        batch, sizes = batch_images([look.pixels() for look in looks], config, torch.device("cpu"))
        mask = torch.zeros(len(batch), *batch.shape[-2:], dtype=torch.int64)
        for each, (height, width) in zip(mask, sizes, strict=True):
            each[:height, :width] = 1
        encoded = BatchFeature({"pixel_values": batch, "pixel_mask": mask}, tensor_type=return_tensors)
        if annotations is not None:
            given = [annotations] if isinstance(annotations, Mapping) else list(annotations)
            if len(given) != len(pictures):
                raise ValueError(f"got annotations of {len(given)} pictures for {len(pictures)}, expected one each")
            encoded["labels"] = [
                BatchFeature(to_labels(annotation, picture.size, size), tensor_type=return_tensors)
                for annotation, picture, size in zip(given, pictures, sizes, strict=True)
            ]
        return encoded

    def read(self, image: ImageSource) -> Picture:
        """A picture as it is needed, upright, in 8-bit RGB. Raises `ImageError`."""
        return to_picture(image, lambda size: network_size(self.config, size, None))

    def post_process_object_detection(
        self, outputs: Any, threshold: float = 0.5, target_sizes: Tensor | Sequence[tuple[int, int]] | None = None
    ) -> list[dict[str, Tensor]]:
        """Detections of a model of transformers, best first.

        Args:
            outputs: with "logits" (N, Q, K), those of the classes' scores, and "pred_boxes" (N, Q, 4), centre and size
                in shares of the picture.
            threshold: detections of this score and less are left out.
            target_sizes: (H, W) of each picture as it came, (N, 2); None leaves boxes in shares of the picture.

        Returns:
            For each picture "scores" (M,), "labels" (M,) and "boxes" (M, 4) float32, x1, y1, x2, y2 in pixels of the
            picture.

        Raises:
            ValueError: `target_sizes` are not as many as pictures.
        """
        logits, boxes = outputs["logits"], outputs["pred_boxes"]
        if target_sizes is not None and len(target_sizes) != len(logits):
            raise ValueError(f"got {len(target_sizes)} target_sizes for {len(logits)} pictures, expected one each")
        found = []
        for number, scores_of_classes in enumerate(logits.float().sigmoid()):
            scores, labels = scores_of_classes.max(-1)
            kept = (scores > threshold).nonzero()[:, 0]
            kept = kept[scores[kept].argsort(descending=True, stable=True)]
            image_size = None if target_sizes is None else (int(target_sizes[number][0]), int(target_sizes[number][1]))
            in_pixels = self._in_pixels(boxes[number, kept], image_size)
            found.append({"scores": scores[kept], "labels": labels[kept], "boxes": in_pixels})
        return found

    def _in_pixels(self, boxes: Tensor, image_size: tuple[int, int] | None) -> Tensor:
        """Boxes (M, 4) in shares of a picture of this (H, W) -> corners in its pixels, or in shares where it is None.

        By way of pixels of the network's input, which float64 keeps: what comes out has the bits of `Detector.predict`.
        """
        if image_size is None:
            return from_shares(boxes, torch.ones(2)).float()
        size = network_size(self.config, image_size, None)
        return map_to_image(from_shares(boxes, torch.tensor(size)).float(), size, image_size, self.inclusive_corners)

    def to_dict(self) -> dict[str, Any]:
        """The content of `preprocessor_config.json`."""
        return processor_values(self.config, self.inclusive_corners)

    def to_json_string(self) -> str:
        """The text of `preprocessor_config.json`."""
        return processor_json(self.config, self.inclusive_corners)

    def to_json_file(self, json_file_path: str | PathLike[str]) -> None:
        """Write the text of `preprocessor_config.json`, aside and then renamed."""
        write_text(Path(json_file_path), self.to_json_string())

    def save_pretrained(self, save_directory: str | PathLike[str], push_to_hub: bool = False, **options: Any) -> Any:
        """As in transformers; a detector's `config.json` that is there gets the same settings, which dyzoo reads."""
        written = super().save_pretrained(save_directory, push_to_hub=push_to_hub, **options)
        path = Path(save_directory) / CONFIG_NAME
        if path.is_file():
            with suppress(CheckpointError):  # a model of another library
                config = read_config(path)
                if config.preprocess != self.config:
                    write_text(path, replace(config, preprocess=self.config).to_json(for_transformers=True))
        return written

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoImageProcessor") -> None:
        """Do nothing: `preprocessor_config.json` names where the code is, and no copy of it is to be saved beside."""


def _listed(images: Any) -> list[Any]:
    if isinstance(images, list | tuple) or (isinstance(images, np.ndarray | Tensor) and images.ndim == 4):
        listed = list(images)
        if not listed:
            raise ValueError(f"images are none, expected {_EXPECTED}")
        return listed
    return [images]
