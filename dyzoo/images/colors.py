"""Colours for classes and tracks: told apart by everyone as far as their number allows."""

from __future__ import annotations

from functools import cache

import numpy as np

RGB = tuple[int, int, int]  # 0..255

# Okabe and Ito's colours, which differ with every common kind of colour blindness; black is left out, since pictures
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
_COUNT = 256
_MIN_LIGHTNESS, _MIN_CHROMA = 0.4, 0.08  # in OKLab: neither black nor grey

# OKLab is a space where Euclidean distance is about what the eye sees (Ottosson, "A perceptual color space for image
# processing", 2020).
_LINEAR_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LMS_TO_OKLAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def class_color(label: int) -> RGB:
    """A colour for a class, or a track, by its number, the same in every picture; the first 256 are all different."""
    return _class_colors()[label % _COUNT]


def text_color(background: RGB) -> RGB:
    """Black or white, whichever has the higher contrast (WCAG 2.1, relative luminance)."""
    luminance = _linear(np.array(background)) @ (0.2126, 0.7152, 0.0722)
    return (0, 0, 0) if (luminance + 0.05) ** 2 > 0.05 * 1.05 else (255, 255, 255)


@cache
def _class_colors() -> tuple[RGB, ...]:
    """The palette, then always the colour that is farthest from all those before it."""
    steps = np.arange(0, 256, 17)
    candidates = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    lab = _oklab(candidates)
    usable = (lab[:, 0] > _MIN_LIGHTNESS) & (np.hypot(lab[:, 1], lab[:, 2]) > _MIN_CHROMA)
    candidates, lab = candidates[usable], lab[usable]
    colors = list(_PALETTE)
    distance = np.linalg.norm(lab[:, None] - _oklab(np.array(_PALETTE)), axis=2).min(axis=1)
    while len(colors) < _COUNT:
        farthest = distance.argmax()
        red, green, blue = candidates[farthest].tolist()
        colors.append((red, green, blue))
        distance = np.minimum(distance, np.linalg.norm(lab - lab[farthest], axis=1))
    return tuple(colors)


def _oklab(rgb: np.ndarray) -> np.ndarray:
    """(M, 3) sRGB of 0..255 -> OKLab: lightness, and two axes of hue."""
    lab: np.ndarray = np.cbrt(_linear(rgb) @ _LINEAR_TO_LMS.T) @ _LMS_TO_OKLAB.T
    return lab


def _linear(rgb: np.ndarray) -> np.ndarray:
    """sRGB of 0..255 -> linear light of 0..1."""
    values = rgb / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
