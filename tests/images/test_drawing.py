from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dyzoo.images.drawing import draw_boxes

RED = (255, 0, 0)
BOX = (100, 100, 400, 300)


def red(picture: Image.Image) -> np.ndarray:
    return (np.asarray(picture) == RED).all(axis=2)


def test_lines_can_be_thin_or_dashed_and_an_empty_caption_is_not_drawn() -> None:
    blank = Image.new("RGB", (900, 700), "white")
    solid, thin, dashed = (red(draw_boxes(blank, [BOX], [""], [RED], [style])) for style in ("solid", "thin", "dashed"))
    assert np.array_equal(solid, red(draw_boxes(blank, [BOX], [""], [RED])))
    assert thin.sum() < 0.6 * solid.sum()
    assert 0.4 * solid.sum() < dashed.sum() < 0.65 * solid.sum()
    assert not (dashed & ~solid).any()
    for corner in ((100, 100), (100, 399), (299, 100), (299, 399)):
        assert dashed[corner]


@pytest.mark.parametrize("side", [1, 2, 3, 7])
def test_the_smallest_boxes_can_be_dashed(side: int) -> None:
    picture = red(
        draw_boxes(Image.new("RGB", (900, 700), "white"), [(5, 5, 5 + side, 5 + side)], [""], [RED], ["dashed"])
    )
    rows, columns = np.nonzero(picture)
    assert (rows.min(), columns.min(), rows.max(), columns.max()) == (5, 5, 4 + side, 4 + side)


@pytest.mark.parametrize("caption", ["line\nfeed 0.9", "\udc80 0.9", "w" * 5_000_000 + " 0.9", "w" * 5_000_000])
def test_captions_of_strangers_are_drawn(caption: str) -> None:
    blank = Image.new("RGB", (900, 700), "white")
    drawn = draw_boxes(blank, [BOX], [caption], [RED])
    assert drawn.size == blank.size
    assert red(drawn).sum() > red(draw_boxes(blank, [BOX], [""], [RED])).sum()


def test_many_captions_leave_the_objects_to_be_seen() -> None:
    blank = Image.new("RGB", (3000, 3000), "white")
    boxes = [(x, y, x + 90, y + 90) for y in range(0, 3000, 150) for x in range(0, 3000, 150)]
    drawn = red(draw_boxes(blank, boxes, ["platelets 0.99"] * len(boxes), [RED] * len(boxes)))
    assert 0.05 < drawn.mean() < 0.2
    single = red(draw_boxes(blank, boxes[:1], ["platelets 0.99"], [RED]))
    assert single.mean() > 1.5 * drawn.mean() / len(boxes)
