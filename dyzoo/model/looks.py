"""A picture as the network looks at it, and what was found brought back to the picture's pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from dyzoo.config import PreprocessConfig
from dyzoo.images.reading import Picture
from dyzoo.model.heads.base import Detected, Limits
from dyzoo.model.preprocess import map_to_image, resize_image
from dyzoo.model.seams import merge_tiles
from dyzoo.model.sizes import Size, network_size, padded_size, zoom
from dyzoo.model.tiles import Grid, Tiles, tile_grid

Area = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Look:
    """A part of a picture that the network is to see. Its pixels are made when they are asked for.

    Attributes:
        image: the picture's image, or the look's pixels (3, h, w) uint8 if they are made already.
        crop: the part as (x1, y1, x2, y2) in pixels of the picture's image, which may be of a reduced scale.
        size: (h, w) as the network sees it.
        scale: pixels of the picture for one of its image, in y and x.
    """

    image: Image.Image | Tensor
    crop: Area
    size: tuple[int, int]
    scale: tuple[float, float]

    @classmethod
    def at(cls, picture: Picture, crop: Area, size: tuple[int, int]) -> Look:
        """The look at a part of a picture."""
        image, (height, width) = picture.image, picture.size
        return cls(image, crop, size, (height / image.height, width / image.width))

    def pixels(self) -> Tensor:
        """(3, h, w) uint8."""
        if isinstance(self.image, Tensor):
            return self.image
        is_whole = self.crop == (0, 0, *self.image.size)
        return resize_image(TF.pil_to_tensor(self.image if is_whole else self.image.crop(self.crop)), self.size)

    def made(self) -> Look:
        """The same with its pixels made, which needs the picture's image no more."""
        return replace(self, image=self.pixels())

    def to_picture(self, found: Detected, inclusive_corners: bool) -> Detected:
        """Detections in the look's pixels -> in pixels of the picture."""
        (scale_y, scale_x), (x1, y1, x2, y2) = self.scale, self.crop
        area_size = ((y2 - y1) * scale_y, (x2 - x1) * scale_x)
        boxes = map_to_image(found["boxes"], self.size, area_size, inclusive_corners)
        if (x1, y1) != (0, 0):
            boxes = boxes + boxes.new_tensor([x1 * scale_x, y1 * scale_y] * 2)
        return {**found, "boxes": boxes}


@dataclass(frozen=True, eq=False)
class Looks:
    """The looks that the network takes at a picture: the tiles row by row, and the whole, which comes last.

    The whole is looked at beside the tiles for objects that are larger than these.

    Attributes:
        looks: one or more.
        grid: the tiles; None where there is only the whole.
        zoom: pixels of the network's input for one of the picture, in the looks that see the most.
    """

    looks: list[Look]
    grid: Grid | None
    zoom: float

    def merge(self, found: Sequence[Detected], inclusive_corners: bool, limits: Limits) -> Detected:
        """The detections in each look, in its pixels -> those in the picture, in pixels of the picture."""
        in_picture = [look.to_picture(f, inclusive_corners) for look, f in zip(self.looks, found, strict=True)]
        if self.grid is None:
            return in_picture[0]
        return merge_tiles(in_picture, self.grid, limits.nms_threshold)


def make_looks(picture: Picture, config: PreprocessConfig, size: Size, tiles: Tiles) -> Looks:
    """The looks that the network takes at a picture.

    Raises:
        ImageError: one of them is too large, or there are too many.
    """
    grid = tile_grid(config, picture.size, size, tiles)
    image = picture.image
    whole = Look.at(
        picture, (0, 0, image.width, image.height), network_size(config, picture.size, None if grid else size)
    )
    looks = [whole]
    if grid is not None:
        scale_x, scale_y = image.width / picture.size[1], image.height / picture.size[0]
        looks = [*(_tile(picture, area, scale_x, scale_y, grid.zoom) for area in grid.areas()), whole]
    for seen in {look.size for look in looks}:
        padded_size([seen], config.size_divisor)  # refuses it before anything of that size is made
    return Looks(looks, grid, grid.zoom if grid else zoom(config, picture.size, size))


def _tile(picture: Picture, area: Area, scale_x: float, scale_y: float, zoom: float) -> Look:
    x1, y1, x2, y2 = area
    crop = round(x1 * scale_x), round(y1 * scale_y), round(x2 * scale_x), round(y2 * scale_y)
    return Look.at(picture, crop, (max(round((y2 - y1) * zoom), 1), max(round((x2 - x1) * zoom), 1)))


def least_size(config: PreprocessConfig, image_size: tuple[int, int], size: Size, tiles: Tiles) -> tuple[int, int]:
    """(H, W) of the smallest image of use, for a picture of that (H, W). Raises `ImageError`: too many tiles."""
    grid = tile_grid(config, image_size, size, tiles)
    if grid is None:
        return network_size(config, image_size, size)
    height, width = (math.ceil(length * min(grid.zoom, 1.0)) for length in image_size)
    return height, width
