"""A picture as the network looks at it, and what was found brought back to the picture's pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from dyzoo.config import PreprocessConfig
from dyzoo.images.reading import Picture
from dyzoo.model.heads.base import Detected
from dyzoo.model.preprocess import map_to_image, resize_image
from dyzoo.model.sizes import Size, network_size, padded_size


class Look(NamedTuple):
    """A part of a picture as the network sees it.

    Attributes:
        pixels: (3, h, w) uint8.
        area: the part as (x1, y1, x2, y2) in pixels of the picture.
    """

    pixels: Tensor
    area: tuple[int, int, int, int]


def make_looks(picture: Picture, config: PreprocessConfig, size: Size) -> list[Look]:
    """The looks that the network takes at a picture. Raises `ImageError`: one of them is too large."""
    height, width = picture.size
    resized = network_size(config, picture.size, size)
    padded_size([resized], config.size_divisor)  # refuses it before anything of that size is made
    return [Look(resize_image(TF.pil_to_tensor(picture.image), resized), (0, 0, width, height))]


def merge_looks(looks: Sequence[Look], found: Sequence[Detected], inclusive_corners: bool) -> Detected:
    """The detections of the looks at one picture as one, in pixels of the picture."""
    (look,), (detected,) = looks, found
    x1, y1, x2, y2 = look.area
    seen = (look.pixels.shape[1], look.pixels.shape[2])
    boxes = map_to_image(detected["boxes"], seen, (y2 - y1, x2 - x1), inclusive_corners)
    return {**detected, "boxes": boxes}
