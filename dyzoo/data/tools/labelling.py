"""Pictures without labels become a dataset to correct: a detector's boxes in the format of a trainer or of a tool."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args

import numpy as np

from dyzoo.data.formats.writers import check_names
from dyzoo.data.records import Notes, Sample
from dyzoo.data.tools import annotation_tools
from dyzoo.data.tools.folder import Track, untracked
from dyzoo.data.tools.writing import (
    FormatName,
    check_labels,
    file_names,
    place_images,
    write_folder,
)
from dyzoo.errors import DatasetError, ImageError
from dyzoo.files import check_is_new, folder_aside
from dyzoo.images.detections import Detections
from dyzoo.images.sources.naming import is_image_source

LabelFormat = FormatName | Literal["label-studio", "cvat"]
LABEL_FORMATS: tuple[str, ...] = (*get_args(FormatName), "label-studio", "cvat")

_SPLIT = "train"


class Detecting(Protocol):
    """A `Detector`, or another object with its `predict` and `labels`."""

    @property
    def labels(self) -> tuple[str, ...]: ...

    def predict(self, images: Any, threshold: float, *args: Any, **settings: Any) -> Any:
        """As `Detector.predict`, with `stream` and `on_error`."""


@dataclass(frozen=True)
class Labelling:
    """A dataset that a detector has labelled.

    Attributes:
        folder: where it is.
        images: how many pictures are in it, those without objects among them.
        boxes: how many objects of each class, the classes without any among them.
        failures: the error of each picture that could not be read and is left out.
        notes: one line for each kind of thing that was renamed or left out.
    """

    folder: Path
    images: int
    boxes: dict[str, int]
    failures: list[ImageError]
    notes: list[str]


def label_images(
    model: Detecting,
    images: Sequence[Path],
    out: str | Path,
    to: LabelFormat = "coco",
    *,
    classes: Sequence[str] | None = None,
    threshold: float = 0.3,
    thresholds: Mapping[str, float] | None = None,
    model_name: str = "dyzoo",
    link: bool = False,
    track: Track = untracked,
    **settings: Any,
) -> Labelling:
    """Write a dataset of the pictures with what the detector finds in them, as its split `train`.

    Boxes are a detector's guesses until somebody has corrected them. The folder is written aside and renamed: it is
    there as a whole or not at all.

    Args:
        model: the detector.
        images: paths of the pictures.
        out: the new folder; absent or empty.
        to: "coco", "voc" or "yolo"; "label-studio" for tasks.json and label_config.xml, "cvat" for annotations.xml,
            each beside a folder `images`.
        classes: names of the classes to keep, in the order that the dataset is to have; None keeps the model's.
        threshold: objects of a lower score are left out.
        thresholds: by class, in the place of `threshold`.
        model_name: what Label Studio shows as the version of the model.
        link: hard links to the images instead of copies.
        track: shows progress.
        settings: what `Detector.predict` takes besides: `size`, `batch_size`, `flips`, `max_pixels`.

    Raises:
        DatasetError: `out` is taken, a class or a format is unknown, a threshold lies outside of 0 to 1, or no picture
            could be read.
        OSError: the disk is full, or cannot be written to.
    """
    if to not in LABEL_FORMATS:
        raise DatasetError(f"format {to!r} is unknown, expected one of {', '.join(LABEL_FORMATS)}")
    out = Path(out).resolve()
    check_is_new(out, DatasetError)
    labels = _chosen(model.labels, classes)
    check_labels(labels)
    least = _least_scores(labels, threshold, thresholds or {})
    samples: list[Sample] = []
    scores: list[np.ndarray] = []
    failures: list[ImageError] = []
    lowest = min(least.values(), default=threshold)
    pictures: list[Path] = []
    others: list[Path] = []
    for path in images:
        (pictures if is_image_source(path) else others).append(path)
    failures += [ImageError(f"{path} is no picture, expected an image file") for path in others]
    found = model.predict(pictures, lowest, stream=True, on_error="return", **settings)
    for path, answer in zip(pictures, track(found, "labelling", len(pictures)), strict=True):
        if isinstance(answer, ImageError):
            failures.append(answer)
            continue
        sample, sure = _sample(answer, path, len(samples) + 1, least)
        samples.append(sample)
        scores.append(sure)
    if not samples:
        raise DatasetError(f"none of {len(images)} pictures can be labelled{f': {failures[0]}' if failures else ''}")
    notes = Notes()
    named = file_names({_SPLIT: samples}, to, notes)
    if to in get_args(FormatName):
        write_folder(out, named, labels, range(1, len(labels) + 1), cast(FormatName, to), link=link, track=track)
    else:
        check_names(out, named)
        with folder_aside(out) as aside:
            place_images(aside, named, to, link, track)
            if to == "cvat":
                annotation_tools.write_cvat(aside, named[_SPLIT], labels)
            else:
                annotation_tools.write_label_studio(aside, named[_SPLIT], scores, labels, model_name)
    counts = Counter(labels[label] for sample in samples for label in sample.labels)
    return Labelling(out, len(samples), {name: counts[name] for name in labels}, failures, notes.lines())


def _chosen(known: tuple[str, ...], classes: Sequence[str] | None) -> tuple[str, ...]:
    if classes is None:
        return known
    if unknown := [name for name in classes if name not in known]:
        some = ", ".join(known[:10]) + (", ..." if len(known) > 10 else "")
        raise DatasetError(f"the detector knows no class {unknown[0]!r}, expected some of {some}")
    if not classes or len(set(classes)) < len(classes):
        raise DatasetError(f"classes are {', '.join(classes) or 'none'}, expected at least one and none twice")
    return tuple(classes)


def _least_scores(labels: Sequence[str], threshold: float, thresholds: Mapping[str, float]) -> dict[str, float]:
    if unknown := sorted(set(thresholds) - set(labels)):
        raise DatasetError(f"there is a threshold for {unknown[0]!r}, which is none of the classes to label")
    least = {name: thresholds.get(name, threshold) for name in labels}
    for name, value in least.items():
        if not 0 <= value <= 1:
            raise DatasetError(f"the threshold of {name!r} is {value}, expected 0 to 1")
    return least


def _sample(found: Detections, path: Path, image_id: int, least: Mapping[str, float]) -> tuple[Sample, np.ndarray]:
    """The objects above their thresholds with classes as indices into `least`, and their scores."""
    place = {name: index for index, name in enumerate(least)}
    kept = [
        each for each in found if each.name in place and each.score >= least[each.name] and _has_area(each.box_xyxy)
    ]
    sample = Sample(
        image_path=path,
        width_px=found.image_size[1],
        height_px=found.image_size[0],
        boxes_xyxy=np.array([each.box_xyxy for each in kept], dtype=np.float32).reshape(-1, 4),
        labels=np.array([place[each.name] for each in kept], dtype=np.int64),
        crowd=np.zeros(len(kept), dtype=np.bool_),
        image_id=image_id,
    )
    return sample, np.array([each.score for each in kept], dtype=np.float64)


def _has_area(box_xyxy: tuple[float, float, float, float]) -> bool:
    """Whether a box is one after it has been written with eight digits and read again."""
    x1, y1, x2, y2 = box_xyxy
    return min(x2 - x1, y2 - y1) > 0.1
