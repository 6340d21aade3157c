"""transformers' pipeline for object detection, with pictures read and boxes given as `Detector.predict` does."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from transformers import ObjectDetectionPipeline
from transformers.image_utils import load_image

from dyzoo.images.reading import Picture


class DyzooObjectDetectionPipeline(ObjectDetectionPipeline):
    """`pipeline("object-detection")` of a dyzoo detector.

    transformers' own reads pictures without regard to transparency and 16-bit grey, and cuts boxes down to whole
    pixels. Here files and PIL images are read as by `Detector.predict`, and a box's edges are floats.
    """

    def preprocess(self, image: Any, timeout: float | None = None) -> Any:
        """A picture as the model takes it: a path, an address, base64 or a PIL image."""
        # no Path: it would not have a text of thousands of characters, which base64 is
        if isinstance(image, str) and not os.path.isfile(image):  # noqa: PTH113
            image = load_image(image, timeout=timeout)
        picture: Picture = self.image_processor.read(image)
        inputs = self.image_processor(images=[picture]).to(self.dtype)
        inputs["target_size"] = torch.tensor([picture.size])
        return inputs

    def check_model_type(self, supported_models: Any) -> None:
        """Do nothing: transformers' list of models knows its own alone."""

    def _get_bounding_box(self, box: Tensor) -> dict[str, float]:
        return dict(zip(("xmin", "ymin", "xmax", "ymax"), box.tolist(), strict=True))
