"""Films of squares that move, and a detector that finds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dyzoo.images.detections import Detections
from tests.images.sources.films import write_frames
from tests.prediction.stub_model import StubModel

SIDE, STEP = 16, 3  # pixels; and per frame
LEVELS = (255, 128)  # green of a cat and of a dog


def write_squares(
    path: Path, count: int = 10, size: tuple[int, int] = (96, 128), dim: Sequence[int] = (), rate: int = 10
) -> Path:
    """A cat that moves to the right, above a dog that moves to the left; in the frames `dim` the cat is hard to see."""
    frames = []
    for number in range(count):
        pixels = np.zeros((*size, 3), np.uint8)
        cat_x, dog_x = 8 + STEP * number, size[1] - 8 - SIDE - STEP * number
        pixels[16 : 16 + SIDE, cat_x : cat_x + SIDE] = (0, LEVELS[0], 255 if number in dim else 0)
        pixels[64 : 64 + SIDE, dog_x : dog_x + SIDE] = (0, LEVELS[1], 0)
        frames.append(pixels)
    return write_frames(path, frames, rate=rate)


class SquareModel(StubModel):
    """Finds the squares of `write_squares`: the dog with a score of 0.6, the cat with 0.9, or 0.15 where it is dim.

    Attributes:
        seen: the source and frame of all that it has looked at.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str | None, int | None]] = []

    def _found(self, picture: Any, settings: dict[str, Any]) -> Detections:
        self.seen.append((picture.source, picture.frame))
        _, green, blue = np.moveaxis(np.asarray(picture.image).astype(int), 2, 0)
        boxes, scores, labels = [], [], []
        for label, is_it in enumerate((green > 200, (green > 80) & (green < 180))):
            rows, columns = np.nonzero(is_it)
            if len(rows) >= SIDE * SIDE // 2:
                low, high = np.percentile(columns, (2, 98)), np.percentile(rows, (2, 98))
                boxes.append([low[0], high[0], low[1] + 1, high[1] + 1])
                is_dim = blue[rows, columns].mean() > 128
                scores.append(0.15 if is_dim else (0.9, 0.6)[label])
                labels.append(label)
        found = replace(
            super()._found(picture, settings),
            boxes_xyxy=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            scores=torch.tensor(scores),
            labels=torch.tensor(labels, dtype=torch.int64),
        )
        return found.filter(settings.get("threshold", 0.3))
