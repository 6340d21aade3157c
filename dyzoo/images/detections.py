"""`Detections`: what a detector found in one image, and its ways to JSON, COCO, supervision and a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from dyzoo.images.colors import class_color
from dyzoo.images.drawing import draw_boxes
from dyzoo.images.reading import ImageSource, Picture, to_picture

if TYPE_CHECKING:
    from PIL import Image


class Detection(NamedTuple):
    """One object: its box in pixels of the image, its score in 0..1, its class as index and as name."""

    box_xyxy: tuple[float, float, float, float]
    score: float
    label: int
    name: str


@dataclass(frozen=True, eq=False)
class Detections:
    """M objects found in one image, best first. All tensors are on the CPU.

    Attributes:
        boxes_xyxy: (M, 4) float32, pixels of the image as it was given, on pixel edges (x2 - x1 is the width).
        scores: (M,) float32 in 0..1.
        labels: (M,) int64, indices into `names`.
        names: name of every class the detector knows.
        image_size: (H, W) of the image in pixels.
        path: file the image was read from, if it was.
        source: what it was read from, as `Picture.source`.
        frame, time_s: its place in a film or stream, as in `Picture`.
        picture: the image itself, where `predict` was asked to keep it.
        notes: one line for each reason why something may be missing, none where there is none.
        track_ids: (M,) int64, the same number for the same object in all frames of a film; None without tracking.
    """

    boxes_xyxy: Tensor
    scores: Tensor
    labels: Tensor
    names: tuple[str, ...]
    image_size: tuple[int, int]
    path: Path | None = None
    source: str | None = None
    frame: int | None = None
    time_s: float | None = None
    picture: Picture | None = None
    notes: tuple[str, ...] = ()
    track_ids: Tensor | None = None

    def __post_init__(self) -> None:
        shapes = tuple(self.boxes_xyxy.shape), tuple(self.scores.shape), tuple(self.labels.shape)
        count = shapes[1][0] if shapes[1] else 0
        if shapes != ((count, 4), (count,), (count,)):
            raise ValueError(
                f"boxes_xyxy, scores, labels are {', '.join(map(str, shapes))}, expected (M, 4), (M,), (M,) of one M"
            )
        if count and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.names):
            raise ValueError(
                f"labels lie in {int(self.labels.min())}..{int(self.labels.max())}, "
                f"expected indices into the {len(self.names)} names"
            )

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        rows = zip(self.boxes_xyxy.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True)
        for (x1, y1, x2, y2), score, label in rows:
            yield Detection((x1, y1, x2, y2), score, label, self.names[label])

    @overload
    def __getitem__(self, index: int) -> Detection: ...
    @overload
    def __getitem__(self, index: slice | Tensor | Sequence[int] | Sequence[bool]) -> Detections: ...
    def __getitem__(self, index: int | slice | Tensor | Sequence[int] | Sequence[bool]) -> Detection | Detections:
        """One `Detection` for a number; for a slice, a boolean mask (M,) or indices, those `Detections`."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"detection {index} of {len(self)}")
            index %= len(self)
            return next(iter(self[index : index + 1]))
        if not isinstance(index, slice | Tensor):
            index = torch.as_tensor(index, dtype=None if len(index) else torch.int64)
        track_ids = None if self.track_ids is None else self.track_ids[index]
        return replace(
            self,
            boxes_xyxy=self.boxes_xyxy[index],
            scores=self.scores[index],
            labels=self.labels[index],
            track_ids=track_ids,
        )

    def filter(self, threshold: float) -> Detections:
        """The detections with a score of at least `threshold`."""
        return self[self.scores >= threshold]

    def counts(self) -> dict[str, int]:
        """Number of detections of each class that was found, the most frequent first."""
        per_label = torch.bincount(self.labels, minlength=len(self.names)).tolist()
        found = [(name, count) for name, count in zip(self.names, per_label, strict=True) if count]
        return dict(sorted(found, key=lambda item: -item[1]))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: boxes rounded to 0.01 px, scores to 0.0001."""
        return {
            "path": None if self.path is None else str(self.path),
            "height_px": self.image_size[0],
            "width_px": self.image_size[1],
            "detections": [
                {
                    "name": d.name,
                    "label": d.label,
                    "score": round(d.score, 4),
                    "box_xyxy": [round(v, 2) for v in d.box_xyxy],
                }
                for d in self
            ],
        }

    def to_coco(self, image_id: int, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Entries of a COCO results file, boxes as (x, y, width, height).

        Args:
            image_id: id of the image in the annotation file.
            category_ids: COCO's id of each label; without it label + 1, since COCO files count from one.
        """
        if category_ids is None:
            category_ids = range(1, len(self.names) + 1)
        if len(category_ids) != len(self.names):
            raise ValueError(f"got {len(category_ids)} category ids, expected one for each of {len(self.names)} labels")
        return [
            {
                "image_id": image_id,
                "category_id": category_ids[d.label],
                "bbox": [d.box_xyxy[0], d.box_xyxy[1], d.box_xyxy[2] - d.box_xyxy[0], d.box_xyxy[3] - d.box_xyxy[1]],
                "score": d.score,
            }
            for d in self
        ]

    def to_supervision(self) -> Any:
        """The same as `supervision.Detections`, class names under `data["class_name"]`.

        Raises:
            ImportError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError:
            raise ImportError("to_supervision needs the package supervision: pip install supervision") from None
        return supervision.Detections(
            xyxy=self.boxes_xyxy.numpy(),
            confidence=self.scores.numpy(),
            class_id=self.labels.numpy(),
            data={"class_name": np.array([self.names[label] for label in self.labels.tolist()], dtype=str)},
        )

    def draw(self, image: ImageSource | None = None) -> Image.Image:
        """The image with boxes, class names and scores drawn on it.

        It has the size of the image; a small one is enlarged by a whole number, so that labels have room. A JPEG of
        more than `dyzoo.images.reading.REDUCED_ABOVE` pixels is read and drawn on at a reduced scale.

        Args:
            image: the image given to `predict`; without it `picture` is taken, or `path` read again.

        Raises:
            ValueError: there is no image, picture or path, or the image is not of `image_size`.
            ImageError: the image cannot be read.
        """
        source = image if image is not None else self.picture or self.path
        if source is None:
            raise ValueError("these detections have no path: give the image to draw on, or keep_pictures to predict")
        picture = to_picture(source)
        if picture.size != self.image_size:
            raise ValueError(
                f"the image is {picture.size[0]} x {picture.size[1]} (H x W), the detections are for "
                f"{self.image_size[0]} x {self.image_size[1]}: draw on the image they were made from"
            )
        scale_x, scale_y = picture.image.width / self.image_size[1], picture.image.height / self.image_size[0]
        return draw_boxes(
            picture.image,
            (self.boxes_xyxy * self.boxes_xyxy.new_tensor([scale_x, scale_y, scale_x, scale_y])).tolist(),
            [f"{d.name} {d.score:.2f}" for d in self],
            [class_color(label) for label in self.labels.tolist()],
        )
