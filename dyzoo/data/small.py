"""Boxes that are small at the size a network sees them."""

from __future__ import annotations

import numpy as np

from dyzoo.data.records import Sample
from dyzoo.model.sizes import resized_size

SMALL_PX = 8
"""Width or height below which a box is small: one cell of the finest feature map of most detectors here."""

SPECK_PX = 2
"""Width or height below which a box is not learnt: some epochs drop it as a sliver, and others have it lie between the
anchors."""


def sides_in_training(sample: Sample, size_px: tuple[int, int]) -> np.ndarray:
    """(M, 2) float64 widths and heights of an image's objects once it is resized; crowd regions are left out.

    Args:
        sample: the image with its boxes.
        size_px: shortest and longest edge of images in training; see `dyzoo.model.sizes.resized_size`.
    """
    height, width = resized_size(sample.height_px, sample.width_px, *size_px)
    boxes = sample.boxes_xyxy[~sample.crowd]
    return np.asarray((boxes[:, 2:] - boxes[:, :2]) * (width / sample.width_px, height / sample.height_px))
