"""Boxes and captions on a picture, at any image size."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

RGB = tuple[int, int, int]
BoxPx = tuple[int, int, int, int]  # x1, y1, x2, y2 on pixel edges, inside the image

# Okabe and Ito's colours, told apart with every common kind of colour blindness; black is left out, since pictures
# are full of it.
_PALETTE: tuple[RGB, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (0, 114, 178),
    (204, 121, 167),
)
_GOLDEN_TURN = (3 - math.sqrt(5)) / 2  # the next hue falls into the widest gap left by those before it
_SHADES = ((0.75, 1.0), (0.45, 1.0), (0.9, 0.65))  # saturation and value; light and dark differ without hue

_MIN_LONG_SIDE_PX = 480  # below, letters that can be read would hide the objects

_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)


def class_color(label: int) -> RGB:
    """A colour for the class of that index: the same in every picture, and far from those of its neighbours."""
    if label < len(_PALETTE):
        return _PALETTE[label]
    index = label - len(_PALETTE)
    red, green, blue = colorsys.hsv_to_rgb(index * _GOLDEN_TURN % 1.0, *_SHADES[index % len(_SHADES)])
    return round(255 * red), round(255 * green), round(255 * blue)


def text_color(background: RGB) -> RGB:
    """Black or white, whichever has the higher contrast (WCAG 2.1 relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in background)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return _BLACK if (luminance + 0.05) ** 2 > 0.05 * 1.05 else _WHITE


def draw_boxes(
    image: Image.Image, boxes_xyxy: Sequence[Sequence[float]], captions: Sequence[str], colors: Sequence[RGB]
) -> Image.Image:
    """A copy of an RGB image with boxes and captions, the most important one first: it chooses its place first.

    Lines and letters grow with the image; one whose longer side is under 480 px is enlarged by a whole number first.
    A caption stays inside the image and goes where it covers the least of the captions placed before it.
    """
    zoom = math.ceil(_MIN_LONG_SIDE_PX / max(image.size))
    picture = (
        image.copy() if zoom == 1 else image.resize((image.width * zoom, image.height * zoom), Image.Resampling.BICUBIC)
    )
    pen = ImageDraw.Draw(picture)
    width_px, height_px = picture.size
    typical_side_px = math.sqrt(width_px * height_px)
    line_px = max(2, round(typical_side_px / 280))
    # A long strip may not be all letters, and under 9 px the bundled font is no longer legible.
    font_px = max(9, round(min(typical_side_px / 40, min(width_px, height_px) / 5)))
    font = ImageFont.load_default(font_px)
    padding_px = max(1, font_px // 6)
    label_height_px = sum(font.getmetrics()) + padding_px  # type: ignore[union-attr]

    clipped = [_inside([zoom * v for v in box], width_px, height_px) for box in boxes_xyxy]
    for box, color in reversed(list(zip(clipped, colors, strict=True))):
        x1, y1, x2, y2 = box
        thickness_px = max(1, min(line_px, (x2 - x1) // 4, (y2 - y1) // 4))
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), outline=color, width=thickness_px)

    placed = np.zeros((0, 4), dtype=np.int64)
    for box, caption, color in zip(clipped, captions, colors, strict=True):
        text = _shorten(caption, font, width_px - 2 * padding_px)
        size_px = (math.ceil(font.getlength(text)) + 2 * padding_px, label_height_px)
        places = np.array(list(_places(box, size_px, picture.size)))
        place = places[_overlap_px(places, placed).argmin()]
        placed = np.vstack([placed, place])
        x1, y1, x2, y2 = place.tolist()
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), fill=color)
        pen.text((x1 + padding_px, (y1 + y2) / 2), text, fill=text_color(color), font=font, anchor="lm")
    return picture


def _inside(box_xyxy: Sequence[float], width_px: int, height_px: int) -> BoxPx:
    """The box on whole pixels, clipped to the image and at least one pixel large."""
    x1 = min(max(round(box_xyxy[0]), 0), width_px - 1)
    y1 = min(max(round(box_xyxy[1]), 0), height_px - 1)
    return x1, y1, max(min(round(box_xyxy[2]), width_px), x1 + 1), max(min(round(box_xyxy[3]), height_px), y1 + 1)


def _shorten(caption: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, max_width_px: int) -> str:
    """The caption, or as much of its first words as leaves room for its last one, the score."""
    name, _, score = caption.rpartition(" ")
    while name and font.getlength(caption) > max_width_px:
        name = name[:-1]
        caption = f"{name.rstrip()}… {score}" if name else score
    return caption


def _places(box: BoxPx, size_px: tuple[int, int], image_size_px: tuple[int, int]) -> Iterator[BoxPx]:
    """Where a label of that (width, height) may go, best first, each moved into the image."""
    x1, y1, x2, y2 = box
    width, height = size_px
    corners = [
        (x1, y1 - height),
        (x2 - width, y1 - height),
        (x1, y2),
        (x2 - width, y2),
        (x1, y1),
        (x2 - width, y1),
        (x1, y2 - height),
        (x2 - width, y2 - height),
        (x2, y1),
        (x1 - width, y1),
    ]
    for left, top in corners:
        left = max(0, min(left, image_size_px[0] - width))
        top = max(0, min(top, image_size_px[1] - height))
        yield left, top, left + width, top + height


def _overlap_px(places: np.ndarray, placed: np.ndarray) -> np.ndarray:
    """Area (P,) that each of the (P, 4) places shares with the (Q, 4) labels already there."""
    low = np.maximum(places[:, None, :2], placed[None, :, :2])
    high = np.minimum(places[:, None, 2:], placed[None, :, 2:])
    sides: np.ndarray = (high - low).clip(min=0)
    return sides.prod(axis=2).sum(axis=1)
