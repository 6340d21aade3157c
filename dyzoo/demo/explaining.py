"""Why a detector found one of the objects in a picture, for a page: panels to look at, and a page to keep."""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image

from dyzoo.demo.detecting import Upload, Wish, check_size
from dyzoo.demo.models import Models
from dyzoo.explain import PANELS, explain
from dyzoo.explain.page import page
from dyzoo.images.reading import decode_picture
from dyzoo.text import printable

MOST_PIXELS = 640 * 512
"""Pixels of the largest network input that is explained for a visitor: a ResNet-50 with six blocks takes 5 GB."""

CAPTIONS = {
    "maps": "The last block's maps, before and after each attention",
    "sampling": "Where it samples for this object",
    "channels": "Which line the dynamic ReLU takes, by channel",
    "object": "What made this object",
}


class Reasons(NamedTuple):
    """Pictures with their captions, and an HTML page with all blocks and levels that needs nothing else."""

    panels: list[tuple[Image.Image, str]]
    page: str


def reasons(models: Models, upload: Upload, wish: Wish, number: int | None) -> Reasons:
    """See what the attentions do to a picture, and what made one of the objects that `answer` finds.

    Args:
        number: of the object, from 0, in the order of the answer; None for the best, if there is any.

    Raises:
        DyzooError: as `answer`; there is no such object, the network's input would be too large, or the detector is one
            that cannot be explained.
    """
    check_size(wish.size)
    detector = models.get(wish.model)
    pipeline = detector.pipeline(wish.threshold, wish.size, classes=wish.classes)
    explanation = explain(
        detector,
        decode_picture(upload.content, printable(upload.name), pipeline.least_size),
        detection=number,
        threshold=wish.threshold,
        size=wish.size,
        classes=wish.classes,
        most_pixels=MOST_PIXELS,
    )
    kinds = [kind for kind in PANELS if kind != "object" or explanation.detection is not None]
    return Reasons([(explanation.panel(kind), CAPTIONS[kind]) for kind in kinds], page(explanation))
