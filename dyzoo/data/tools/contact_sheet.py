"""Many images of a dataset with their boxes on one picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dyzoo.data.records import Sample
from dyzoo.data.tools.folder import DatasetFolder
from dyzoo.errors import ImageError
from dyzoo.images.colors import RGB, class_color
from dyzoo.images.reading import read_image

NUM_TILES, _COLUMNS = 24, 4
_TILE_PX, _PICTURE_HEIGHT_PX, _LINE_PX, _MARGIN_PX = 360, 270, 18, 8
_FONT_PX = 13
_MOST_CAPTIONS = 12  # more names in one tile would hide what they name
_LEGEND_CLASSES = 40
_CROWD, _INK, _WARNING, _PAPER, _EMPTY = (150, 150, 150), (20, 20, 20), (200, 0, 0), (255, 255, 255), (230, 230, 230)


class Tile(NamedTuple):
    split: str
    path: Path
    sample: Sample | None  # None: it was dropped
    reasons: Sequence[str]


def choose_tiles(source: DatasetFolder, reasons: Mapping[Path, Sequence[str]], seed: int) -> list[Tile]:
    """Half of the sheet for suspicious images, in the order of `reasons`; the rest drawn from all others by `seed`."""
    samples = {sample.image_path: (split.name, sample) for split in source.splits for sample in split.samples}
    others = [path for path in samples if path not in reasons]
    suspicious = list(reasons)[: max(NUM_TILES // 2, NUM_TILES - len(others))]
    drawn = np.random.default_rng(seed).permutation(len(others))[: NUM_TILES - len(suspicious)]
    paths = [*suspicious, *(others[index] for index in drawn.tolist())]
    return [Tile(*_known(path, samples), reasons.get(path, ())) for path in paths]


def _known(path: Path, samples: Mapping[Path, tuple[str, Sample]]) -> tuple[str, Path, Sample | None]:
    split, sample = samples.get(path, ("", None))
    return split, path, sample


def draw_sheet(source: DatasetFolder, reasons: Mapping[Path, Sequence[str]], seed: int = 0) -> Image.Image:
    """The sheet: a legend of the classes, and a tile for each chosen image with its boxes and what is suspicious.

    Args:
        source: the dataset.
        reasons: suspicious image -> what is wrong with it, the ones to show first.
        seed: which of the other images are shown.
    """
    tiles = choose_tiles(source, reasons, seed)
    font = ImageFont.load_default(_FONT_PX)
    width = _COLUMNS * (_TILE_PX + _MARGIN_PX) + _MARGIN_PX
    legend = _legend(source.labels, width, font)
    tile_height = _PICTURE_HEIGHT_PX + 2 * _LINE_PX + _MARGIN_PX
    sheet = Image.new("RGB", (width, legend.height + tile_height * max(1, math.ceil(len(tiles) / _COLUMNS))), _PAPER)
    sheet.paste(legend, (0, 0))
    for number, tile in enumerate(tiles):
        row, column = divmod(number, _COLUMNS)
        corner = _MARGIN_PX + column * (_TILE_PX + _MARGIN_PX), legend.height + row * tile_height
        sheet.paste(_draw_tile(tile, source.labels, font), corner)
    return sheet


def _legend(labels: Sequence[str], width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Image.Image:
    entries = [(_shortened(name, font), class_color(label)) for label, name in enumerate(labels[:_LEGEND_CLASSES])]
    if len(labels) > _LEGEND_CLASSES:
        entries.append((f"and {len(labels) - _LEGEND_CLASSES} more", _PAPER))
    entries.append(("ignored (crowd, difficult)", _CROWD))
    places: list[tuple[int, int]] = []
    x = y = _MARGIN_PX
    for name, _ in entries:
        entry_width = _LINE_PX + math.ceil(font.getlength(name)) + 3 * _MARGIN_PX
        if x + entry_width > width and x > _MARGIN_PX:
            x, y = _MARGIN_PX, y + _LINE_PX
        places.append((x, y))
        x += entry_width
    legend = Image.new("RGB", (width, y + _LINE_PX + _MARGIN_PX), _PAPER)
    pen = ImageDraw.Draw(legend)
    for (name, color), (left, top) in zip(entries, places, strict=True):
        pen.rectangle((left, top + 2, left + _LINE_PX - 6, top + _LINE_PX - 4), fill=color)
        pen.text((left + _LINE_PX, top + _LINE_PX / 2), name, fill=_INK, font=font, anchor="lm")
    return legend


def _draw_tile(tile: Tile, labels: Sequence[str], font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Image.Image:
    canvas = Image.new("RGB", (_TILE_PX, _PICTURE_HEIGHT_PX + 2 * _LINE_PX), _PAPER)
    pen = ImageDraw.Draw(canvas)
    try:
        picture = read_image(tile.path)
    except ImageError:
        pen.rectangle((0, 0, _TILE_PX, _PICTURE_HEIGHT_PX - 1), fill=_EMPTY)
        pen.text((_TILE_PX / 2, _PICTURE_HEIGHT_PX / 2), "cannot be read", fill=_WARNING, font=font, anchor="mm")
    else:
        scale = min(_TILE_PX / picture.width, _PICTURE_HEIGHT_PX / picture.height)
        size = max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)
        canvas.paste(picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0), (0, 0))
        if tile.sample is not None:
            _draw_boxes(pen, tile.sample, scale, labels, font)
    boxes = "not used" if tile.sample is None else f"boxes: {len(tile.sample.labels)}"
    lines = [(f"{tile.split} {tile.path.name}, {boxes}".strip(), _INK), ("; ".join(tile.reasons), _WARNING)]
    for number, (text, color) in enumerate(lines):
        y = _PICTURE_HEIGHT_PX + (number + 0.5) * _LINE_PX
        pen.text((0, y), _shortened(text, font), fill=color, font=font, anchor="lm")
    return canvas


def _draw_boxes(
    pen: ImageDraw.ImageDraw,
    sample: Sample,
    scale: float,
    labels: Sequence[str],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    boxes = (sample.boxes_xyxy * scale).tolist()
    for (x1, y1, x2, y2), label, crowd in zip(boxes, sample.labels.tolist(), sample.crowd.tolist(), strict=True):
        color: RGB = _CROWD if crowd else class_color(label)
        pen.rectangle((x1, y1, max(x2 - 1, x1 + 1), max(y2 - 1, y1 + 1)), outline=color, width=2)
        if len(boxes) <= _MOST_CAPTIONS:
            pen.text(
                (x1 + 4, y1 + 2),
                _shortened(labels[label], font),
                fill=color,
                font=font,
                stroke_width=2,
                stroke_fill=_INK,
            )


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """One line that fits into a tile. Names come from strangers."""
    text = " ".join(text.split())[:_TILE_PX]
    if font.getlength(text) <= _TILE_PX:
        return text
    while text and font.getlength(f"{text}…") > _TILE_PX:
        text = text[:-1]
    return f"{text}…"
