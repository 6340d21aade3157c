"""Boxes and captions on a picture, at any image size, and the picture on disk."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dyzoo.errors import first_line
from dyzoo.files import replacing
from dyzoo.images.colors import RGB, text_color
from dyzoo.text import printable

BoxPx = tuple[int, int, int, int]  # x1, y1, x2, y2 on pixel edges, inside the image

LineStyle = Literal["solid", "dashed", "thin"]

_MOST_LETTERS = 200  # of a name, which may be that of a stranger: room for more is nowhere
_MOST_COVERED = 0.1  # of a picture by captions, as long as they can be read
_MIN_LONG_SIDE_PX = 480  # below, letters that can be read would hide the objects


def draw_boxes(
    image: Image.Image,
    boxes_xyxy: Sequence[Sequence[float]],
    captions: Sequence[str],
    colors: Sequence[RGB],
    lines: Sequence[LineStyle] | None = None,
) -> Image.Image:
    """A copy of an RGB image with boxes and captions, the most important one first: it chooses its place first.

    Lines and letters grow with the image; one whose longer side is under 480 px is enlarged by a whole number first.
    Where captions are many, both are smaller. A caption stays inside the image and goes where it covers the least of
    the captions placed before it.

    Args:
        image: RGB, of any size.
        boxes_xyxy: boxes in pixels of the image.
        captions: one for each box; an empty one is not drawn.
        colors: color of each box, which is also behind its caption.
        lines: how each box is drawn, solid without it; "thin" has half the width.
    """
    zoom = math.ceil(_MIN_LONG_SIDE_PX / max(image.size))
    picture = (
        image.copy() if zoom == 1 else image.resize((image.width * zoom, image.height * zoom), Image.Resampling.BICUBIC)
    )
    pen = ImageDraw.Draw(picture)
    width_px, height_px = picture.size
    typical_side_px = math.sqrt(width_px * height_px)
    # Hundreds of captions may not hide the objects: letters, half as wide as high, have a share of the picture.
    letters = sum(map(len, captions))
    crowded_px = math.sqrt(_MOST_COVERED * width_px * height_px / (0.7 * letters)) if letters else math.inf
    # A long strip may not be all letters, and under 9 px the bundled font is no longer legible.
    font_px = max(9, round(min(typical_side_px / 40, crowded_px, min(width_px, height_px) / 5)))
    line_px = max(2, round(min(typical_side_px / 280, crowded_px / 6)))
    font = ImageFont.load_default(font_px)
    padding_px = max(1, font_px // 6)
    label_height_px = sum(font.getmetrics()) + padding_px  # type: ignore[union-attr]

    boxes = [_inside([zoom * edge_px for edge_px in box], width_px, height_px) for box in boxes_xyxy]
    labels: list[tuple[BoxPx, str, RGB]] = []
    for box, caption, color in zip(boxes, captions, colors, strict=True):
        if not caption:
            continue
        text = _shorten(caption, font, width_px - 2 * padding_px)
        size_px = (math.ceil(font.getlength(text)) + 2 * padding_px, label_height_px)
        labels.append((_free_place(box, size_px, picture.size, [place for place, _, _ in labels]), text, color))

    # The last is drawn first, so that the most important one lies on top; labels lie above all boxes.
    styles = ["solid"] * len(boxes) if lines is None else lines
    for (x1, y1, x2, y2), color, style in reversed(list(zip(boxes, colors, styles, strict=True))):
        width = line_px // 2 if style == "thin" else line_px
        thickness_px = max(1, min(width, (x2 - x1) // 4, (y2 - y1) // 4))
        if style == "dashed":
            _draw_dashed(pen, (x1, y1, x2, y2), color, thickness_px)
        else:
            pen.rectangle((x1, y1, x2 - 1, y2 - 1), outline=color, width=thickness_px)
    for (x1, y1, x2, y2), text, color in reversed(labels):
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), fill=color)
        pen.text((x1 + padding_px, (y1 + y2) / 2), text, fill=text_color(color), font=font, anchor="lm")
    return picture


def save_picture(picture: Image.Image, path: Path, flush: bool = True) -> None:
    """Write a picture in the format of its suffix, aside and then renamed.

    Args:
        picture: RGB.
        path: the file.
        flush: see `dyzoo.files.replacing`.

    Raises:
        ValueError: no format has this suffix, or it has no room for so many pixels.
        OSError: it cannot be written.
    """
    Image.init()  # else Pillow knows only the formats that it has met
    name = Image.registered_extensions().get(path.suffix.lower())
    if name not in Image.SAVE:
        raise ValueError(f"{path}: no format for pictures has the suffix {path.suffix!r}, expected .png, .jpg, ...")
    # PNG's default level takes four times as long for a sixth less.
    options = {"PNG": {"compress_level": 2}, "JPEG": {"quality": 95}}.get(name, {})
    with replacing(path, flush) as aside:
        try:
            picture.save(aside, format=name, **options)
        except (struct.error, OverflowError) as error:  # of a format's own limits
            raise ValueError(first_line(error)) from None


def _draw_dashed(pen: ImageDraw.ImageDraw, box: BoxPx, color: RGB, thickness_px: int) -> None:
    """A rectangle whose edges begin and end with half a dash, so that its corners are closed."""
    x1, y1, x2, y2 = box
    for start, stop in _dashes(x2 - x1, thickness_px):
        for y in (y1, y2 - thickness_px):
            pen.rectangle((x1 + start, y, x1 + stop - 1, y + thickness_px - 1), fill=color)
    for start, stop in _dashes(y2 - y1, thickness_px):
        for x in (x1, x2 - thickness_px):
            pen.rectangle((x, y1 + start, x + thickness_px - 1, y1 + stop - 1), fill=color)


def _dashes(length_px: int, thickness_px: int) -> list[tuple[int, int]]:
    """Begin and end of each dash of an edge: half of its length is drawn, the first and last dash are half ones."""
    if length_px < 4 * thickness_px:
        return [(0, length_px)]  # too short for a gap
    count = max(1, round(length_px / (6 * thickness_px)))
    quarter_px = length_px / count / 4
    edges = [0.0, *(quarter_px * (4 * turn + step) for turn in range(count) for step in (1, 3)), float(length_px)]
    return [(round(edges[i]), max(round(edges[i + 1]), round(edges[i]) + 1)) for i in range(0, len(edges), 2)]


def _inside(box_xyxy: Sequence[float], width_px: int, height_px: int) -> BoxPx:
    """The box on whole pixels, clipped to the image and at least one pixel large."""
    x1 = min(max(round(box_xyxy[0]), 0), width_px - 1)
    y1 = min(max(round(box_xyxy[1]), 0), height_px - 1)
    return x1, y1, max(min(round(box_xyxy[2]), width_px), x1 + 1), max(min(round(box_xyxy[3]), height_px), y1 + 1)


def _shorten(caption: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, max_width_px: int) -> str:
    """The caption, or as much of its first words as leaves room for its last one, the score."""
    if len(caption) > _MOST_LETTERS:
        name, _, score = caption.rpartition(" ")
        caption = f"{name[:_MOST_LETTERS]}… {score[:_MOST_LETTERS]}" if name else f"{score[:_MOST_LETTERS]}…"
    name, _, score = (caption := printable(caption)).rpartition(" ")
    while name and font.getlength(caption) > max_width_px:
        name = name[:-1]
        caption = f"{name.rstrip()}… {score}" if name else score
    return caption


def _free_place(box: BoxPx, size_px: tuple[int, int], image_size_px: tuple[int, int], taken: Sequence[BoxPx]) -> BoxPx:
    """Place for a label of that (width, height): in or at the box, inside the image, least over what is taken."""
    x1, y1, x2, y2 = box
    width, height = size_px
    at_left, at_right, above, at_bottom = x1, x2 - width, y1 - height, y2 - height
    corners = [(at_left, above), (at_right, above), (at_left, y2), (at_right, y2)]
    corners += [(at_left, y1), (at_right, y1), (at_left, at_bottom), (at_right, at_bottom)]  # inside the box
    corners += [(x2, y1), (x1 - width, y1)]  # beside it
    limit = np.array(image_size_px) - size_px
    low = np.array(corners).clip(max=limit).clip(min=0)
    places = np.hstack([low, low + size_px])
    x1, y1, x2, y2 = places[_overlap_px(places, np.array(taken).reshape(-1, 4)).argmin()].tolist()
    return x1, y1, x2, y2


def _overlap_px(places: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Area (P,) that each of the (P, 4) places shares with the (Q, 4) taken ones."""
    low = np.maximum(places[:, None, :2], taken[None, :, :2])
    high = np.minimum(places[:, None, 2:], taken[None, :, 2:])
    sides: np.ndarray = (high - low).clip(min=0)
    return sides.prod(axis=2).sum(axis=1)
