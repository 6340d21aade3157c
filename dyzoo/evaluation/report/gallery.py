"""The images with the worst mistakes: which they are, and how they look."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dyzoo.data import DetectionDataset
from dyzoo.errors import ImageError
from dyzoo.evaluation.report.matching import NOTHING, Matches, Outcome
from dyzoo.evaluation.report.text import counted, plain
from dyzoo.images.colors import RGB
from dyzoo.images.drawing import LineStyle, draw_boxes
from dyzoo.images.reading import read_image

# Of Okabe and Ito's colours, which are told apart by everyone; crowd regions are grey.
RIGHT, CONFUSED, MISSED, FALSE, IGNORED = (0, 158, 115), (170, 90, 200), (230, 159, 0), (213, 60, 0), (150, 150, 150)

_LONG_SIDE_PX = 640  # of a picture in the page, before `draw_boxes` enlarges what is tiny
_JPEG_QUALITIES, _JPEG_BYTES = (80, 60, 40, 20), 120_000  # the first that is small enough, so that a page can be mailed
_MOST_CAPTIONS = 12  # more of them would hide what they name
_FEW_BOXES = 8  # so few that the right ones can be named, too
_LONGEST_NAME = 40  # in a picture

_OBJECT_STYLES: dict[int, tuple[RGB, LineStyle]] = {
    Outcome.RIGHT: (RIGHT, "thin"),
    Outcome.CONFUSED: (CONFUSED, "solid"),
    Outcome.UNMATCHED: (MISSED, "dashed"),
    Outcome.IGNORED: (IGNORED, "thin"),
}
_FIND_STYLES = {**_OBJECT_STYLES, Outcome.UNMATCHED: (FALSE, "solid")}
_IMPORTANCE = (Outcome.UNMATCHED, Outcome.CONFUSED, Outcome.RIGHT, Outcome.IGNORED)


@dataclass(frozen=True)
class Exhibit:
    """One image in the page.

    Attributes:
        name: name of its file.
        words: the caption, which says what is wrong, and how much is right.
        truth, prediction: `data:` addresses of JPEG pictures.
        width_px, height_px: of these pictures.
    """

    name: str
    words: str
    truth: str
    prediction: str
    width_px: int
    height_px: int


def rank_images(matches: Matches) -> list[int]:
    """The samples with mistakes, the worst first.

    A mistake is a missed object, a false find, or a pair of different classes. An image weighs its number of mistakes
    times their share among all its pairs, missed objects and false finds: ten mistakes beside ninety right boxes weigh
    as much as one alone, and twenty out of twenty weigh twenty. So neither a crowded image wins by its size nor one
    with a single missed object by being all wrong. Of equal weight, the one earlier in the data set is first.
    """
    counts = matches.image_counts()
    mistakes = counts["confused"] + counts["missed"] + counts["false"]
    weights = mistakes**2 / np.maximum(mistakes + counts["right"], 1)
    order = np.argsort(-weights, kind="stable")
    return order[mistakes[order] > 0].tolist()


def worst_images(dataset: DetectionDataset, matches: Matches, count: int) -> tuple[list[Exhibit], list[str]]:
    """The `count` worst images that can be read, and one line for each that cannot be."""
    exhibits: list[Exhibit] = []
    unreadable: list[str] = []
    for index in rank_images(matches):
        if len(exhibits) == count:
            break
        try:
            exhibits.append(_exhibit(dataset, matches, index))
        except ImageError as error:
            unreadable.append(str(error).replace(str(dataset.samples[index].image_path), _name(dataset, index)))
    return exhibits, unreadable


def _name(dataset: DetectionDataset, index: int) -> str:
    return dataset.samples[index].image_path.name


def _exhibit(dataset: DetectionDataset, matches: Matches, index: int) -> Exhibit:
    picture = read_image(dataset.samples[index].image_path)
    scale = min(1.0, _LONG_SIDE_PX / max(picture.size))
    if scale < 1:
        size = max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)
        picture = picture.resize(size, Image.Resampling.BOX, reducing_gap=3.0)
    names = [plain(name, _LONGEST_NAME) for name in dataset.labels]
    objects, finds, _ = matches.image(index)
    truth = _draw(
        picture,
        matches.objects.boxes_xywh[objects] * scale,
        [names[label] for label in matches.objects.labels[objects]],
        matches.outcome_of_object[objects],
        _OBJECT_STYLES,
    )
    found = zip(matches.finds.labels[finds], matches.finds.scores[finds], strict=True)
    prediction = _draw(
        picture,
        matches.finds.boxes_xywh[finds] * scale,
        [f"{names[label]} {score:.2f}" for label, score in found],
        matches.outcome_of_find[finds],
        _FIND_STYLES,
    )
    words = _words(dataset.labels, matches, index)
    return Exhibit(_name(dataset, index), words, _jpeg(truth), _jpeg(prediction), truth.width, truth.height)


def _draw(
    picture: Image.Image,
    boxes_xywh: np.ndarray,
    captions: Sequence[str],
    outcomes: np.ndarray,
    styles: dict[int, tuple[RGB, LineStyle]],
) -> Image.Image:
    """Mistakes lie on top and are named, the largest first; right boxes only where there are few of them."""
    importance = np.array([_IMPORTANCE.index(Outcome(outcome)) for outcome in outcomes], dtype=np.int64)
    order = np.lexsort((-boxes_xywh[:, 2:].prod(axis=1), importance)).tolist()
    boxes_xyxy = np.hstack([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]])
    shown = [
        captions[i]
        if place < _MOST_CAPTIONS and (importance[i] < 2 or (importance[i] == 2 and len(order) <= _FEW_BOXES))
        else ""
        for place, i in enumerate(order)
    ]
    drawn = [styles[int(outcomes[i])] for i in order]
    return draw_boxes(
        picture, boxes_xyxy[order].tolist(), shown, [color for color, _ in drawn], [line for _, line in drawn]
    )


def _words(labels: Sequence[str], matches: Matches, index: int) -> str:
    """The caption: every kind of mistake with the classes it happened to."""
    objects, finds, pairs = matches.image(index)
    names = [plain(name, _LONGEST_NAME) for name in labels]
    missed = objects[matches.match_of_object[objects] == NOTHING]
    missed = missed[matches.outcome_of_object[missed] == Outcome.UNMATCHED]
    false = finds[matches.outcome_of_find[finds] == Outcome.UNMATCHED]
    confused = Counter(
        f"{names[matches.objects.labels[target]]} taken for {names[matches.finds.labels[find]]}"
        for target, find in pairs.tolist()
        if matches.outcome_of_find[find] == Outcome.CONFUSED
    )
    kinds = [
        ("missed", Counter(names[label] for label in matches.objects.labels[missed])),
        ("false", Counter(names[label] for label in matches.finds.labels[false])),
        ("confused", confused),
    ]
    right = int((matches.outcome_of_find[finds] == Outcome.RIGHT).sum())
    parts = [f"{sum(counts.values())} {kind}: {counted(counts)}" for kind, counts in kinds if counts]
    return "; ".join([*parts, f"{right} right"])


def _jpeg(picture: Image.Image) -> str:
    for quality in _JPEG_QUALITIES:
        written = io.BytesIO()
        picture.save(
            written, format="JPEG", quality=quality, subsampling=0, optimize=True
        )  # thin lines keep their hues
        if written.tell() <= _JPEG_BYTES:
            break
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode('ascii')}"
