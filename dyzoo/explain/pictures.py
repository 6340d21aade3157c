"""Maps over the picture and sampling points on it, as plain pictures without words."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw

from dyzoo.explain.parts import Branch, Explained
from dyzoo.explain.places import Point, over_picture, sampling_points
from dyzoo.images.colors import RGB, class_color
from dyzoo.images.drawing import draw_boxes

COLORMAP = "inferno"
MAP_SHARE = 0.7
"""How much of a pixel is the map's colour; the rest is the picture in grey."""

# Of Okabe and Ito's colours, which are told apart by everyone.
_BLUE, _YELLOW, _ORANGE = (86, 180, 233), (240, 228, 66), (230, 120, 30)
BRANCH_COLORS: dict[Branch, RGB] = {
    "high": _BLUE, "mid": _YELLOW, "low": _ORANGE, "coarser": _BLUE, "same": _YELLOW, "finer": _ORANGE
}  # fmt: skip
BRANCH_HEX = {name: "#{:02x}{:02x}{:02x}".format(*color) for name, color in BRANCH_COLORS.items()}
PLACE_COLOR: RGB = (255, 255, 255)

_SHARED: RGB = (190, 190, 190)
_OUTSIDE: RGB = (70, 74, 80)
_WINDOW_PX, _LEAST_POSITIONS = 480, 6


def shown_size(explanation: Explained, longest_px: int) -> tuple[int, int]:
    """(height, width) at which the picture is shown, its longer side so many pixels or less."""
    height, width = explanation.pixels.shape[:2]
    scale = min(longest_px / max(height, width), 2.0)
    return max(round(height * scale), 1), max(round(width * scale), 1)


def map_picture(
    explanation: Explained,
    values: np.ndarray,
    cell_px: tuple[float, float],
    highest: float,
    longest_px: int,
    center_offset: float | None = None,
) -> Image.Image:
    """A map over the picture in grey: 0 is the darkest colour, `highest` and all beyond the brightest.

    `cell_px` is the height and width of its positions in pixels of the picture as the network saw it. `center_offset`
    is the explanation's unless another is given.
    """
    center = explanation.center_offset if center_offset is None else center_offset
    size = explanation.pixels.shape[0], explanation.pixels.shape[1]
    shown = shown_size(explanation, longest_px)
    placed = over_picture(values, cell_px, center, size, shown)
    colors = colormaps[COLORMAP](np.clip(placed / max(highest, 1e-30), 0, 1), bytes=True)[..., :3]
    grey = Image.fromarray(explanation.pixels).convert("L").resize((shown[1], shown[0]), Image.Resampling.BOX)
    blended = MAP_SHARE * colors + (1 - MAP_SHARE) * np.asarray(grey, np.float32)[..., None]
    return Image.fromarray(blended.round().astype(np.uint8))


def found_picture(explanation: Explained, longest_px: int) -> Image.Image:
    """The picture with all detections, the explained one thick and named with its number."""
    height, width = shown_size(explanation, longest_px)
    picture = Image.fromarray(explanation.pixels).resize((width, height), Image.Resampling.BICUBIC)
    found = explanation.detections
    scale_y, scale_x = height / found.image_size[0], width / found.image_size[1]
    boxes = (found.boxes_xyxy * found.boxes_xyxy.new_tensor([scale_x, scale_y] * 2)).tolist()
    order = sorted(range(len(found)), key=lambda index: index != explanation.detection)
    return draw_boxes(
        picture,
        [boxes[index] for index in order],
        [f"{index}: {found[index].name} {found[index].score:.2f}" for index in order],
        [class_color(found[index].label) for index in order],
        ["solid" if index == explanation.detection else "thin" for index in order],
    )


def saliency_picture(explanation: Explained, longest_px: int) -> Image.Image:
    """The gradient by the pixels over the picture, averaged over squares of four pixels; the brightest hundredth is
    as bright as can be."""
    assert explanation.saliency is not None
    height, width = explanation.saliency.shape
    padded = np.pad(explanation.saliency, ((0, -height % 4), (0, -width % 4)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // 4, 4, padded.shape[1] // 4, 4).mean(axis=(1, 3))
    return map_picture(explanation, blocks, (4, 4), float(np.quantile(blocks, 0.99)), longest_px, center_offset=0.5)


def reach_picture(explanation: Explained, block: int, longest_px: int) -> Image.Image:
    """Where the place takes from at a block's input, all levels together, each share spread over its position's area;
    the root of it, so that small shares are seen."""
    size = explanation.pixels.shape[0], explanation.pixels.shape[1]
    total = np.zeros(shown_size(explanation, longest_px), np.float32)
    for share, level in zip(explanation.reach[block], explanation.blocks[block], strict=True):
        share = share / math.prod(level.cell_px)
        shown = total.shape[0], total.shape[1]
        total += over_picture(share, level.cell_px, explanation.center_offset, size, shown)
    root = np.sqrt(total)
    scale = size[0] / total.shape[0]
    picture = map_picture(explanation, root, (scale, scale), float(root.max()), longest_px, center_offset=0.5)
    pen, (x, y) = ImageDraw.Draw(picture), (value / scale for value in explanation.place)
    _draw_cross(pen, x, y, 7)
    return picture


def sampling_picture(explanation: Explained, block: int, level: int, longest_px: int = _WINDOW_PX) -> Image.Image:
    """The part of the picture around the place with the sampling points of each branch.

    A dot has the area of its mask, and sectors where branches have it in common; a line leads to it from where it would
    be without its offset; the place is a cross. Outside of the picture is grey.
    """
    points = sampling_points(explanation, block, level)
    x1, y1, x2, y2 = _window(explanation, points, max(explanation.blocks[block][level].cell_px))
    zoom = longest_px / (x2 - x1)
    pixels = Image.fromarray(explanation.pixels)
    window = Image.new("RGB", (x2 - x1, y2 - y1), _OUTSIDE)
    window.paste(pixels, (-x1, -y1))
    picture = window.resize((longest_px, longest_px), Image.Resampling.BICUBIC)
    picture = Image.blend(picture, Image.new("RGB", picture.size, (20, 20, 26)), 0.35)
    pen = ImageDraw.Draw(picture)

    def shown(place: Sequence[float]) -> tuple[float, float]:
        return (place[0] - x1) * zoom, (place[1] - y1) * zoom

    dots: dict[tuple[tuple[float, float], tuple[float, float], float], list[RGB]] = {}
    for point in points:
        dots.setdefault((point.grid_px, point.place_px, point.mask), []).append(BRANCH_COLORS[point.branch])
    for (grid_px, place_px, _), colors in dots.items():
        color = colors[0] if len(colors) == 1 else _SHARED
        (gx, gy), (x, y) = shown(grid_px), shown(place_px)
        pen.line((gx, gy, x, y), fill=color, width=2)
        pen.ellipse((gx - 2, gy - 2, gx + 2, gy + 2), outline=color)
    for (_, place_px, mask), colors in dots.items():
        x, y = shown(place_px)
        radius = max(11 * math.sqrt(mask), 1.5)
        box = (x - radius, y - radius, x + radius, y + radius)
        sector = 360 / len(colors)
        for index, color in enumerate(colors):
            pen.pieslice(box, index * sector - 90, (index + 1) * sector - 90, fill=color)
        pen.ellipse(box, outline=(0, 0, 0))
    _draw_cross(pen, *shown(explanation.place), 9)
    return picture


def _window(explanation: Explained, points: Sequence[Point], cell_px: float) -> tuple[int, int, int, int]:
    """A square of whole pixels, (x1, y1, x2, y2), around all points, of twice the picture's longer side at most."""
    places = np.array([place for point in points for place in (point.grid_px, point.place_px)] + [explanation.place])
    low, high = places.min(axis=0), places.max(axis=0)
    x, y = np.nan_to_num((low + high) / 2)
    most = 2 * max(explanation.pixels.shape[:2])
    side = float(np.nan_to_num((high - low).max() * 1.2, nan=most, posinf=most))
    half = math.ceil(min(max(side, _LEAST_POSITIONS * cell_px), most) / 2)
    if not max(abs(x), abs(y)) < 2 * most:  # offsets beyond all measure
        x, y = explanation.place
    return round(x) - half, round(y) - half, round(x) + half, round(y) + half


def _draw_cross(pen: ImageDraw.ImageDraw, x: float, y: float, arm_px: int) -> None:
    for color, width in (((0, 0, 0), 5), (PLACE_COLOR, 2)):
        pen.line((x - arm_px, y, x + arm_px, y), fill=color, width=width)
        pen.line((x, y - arm_px, x, y + arm_px), fill=color, width=width)
