"""Detections of one image on their way to JSON, COCO, YOLO, supervision and pandas."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor


class Detection(NamedTuple):
    """One object: its box in pixels of the image, its score in 0..1, its class as index and as name."""

    box_xyxy: tuple[float, float, float, float]
    score: float
    label: int
    name: str


class Exports:
    """The ways out of `Detections`, whose attributes these are."""

    boxes_xyxy: Tensor
    scores: Tensor
    labels: Tensor
    names: tuple[str, ...]
    image_size: tuple[int, int]
    path: Path | None
    source: str | None
    frame: int | None
    time_s: float | None
    notes: tuple[str, ...]
    track_ids: Tensor | None

    def __iter__(self) -> Iterator[Detection]:
        rows = zip(self.boxes_xyxy.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True)
        for (x1, y1, x2, y2), score, label in rows:
            yield Detection((x1, y1, x2, y2), score, label, self.names[label])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: boxes rounded to 0.01 px, scores to 0.0001; `track_id` where objects are tracked."""
        found: list[dict[str, Any]] = [
            {
                "name": d.name,
                "label": d.label,
                "score": round(d.score, 4),
                "box_xyxy": [round(v, 2) for v in d.box_xyxy],
            }
            for d in self
        ]
        if self.track_ids is not None:
            for each, track_id in zip(found, self.track_ids.tolist(), strict=True):
                each["track_id"] = track_id
        return {
            "path": None if self.path is None else str(self.path),
            "source": self.source,
            "frame": self.frame,
            "time_s": self.time_s,
            "height_px": self.image_size[0],
            "width_px": self.image_size[1],
            "notes": list(self.notes),
            "detections": found,
        }

    def to_json(self) -> str:
        """`to_dict` as one line of JSON."""
        return json.dumps(self.to_dict())

    def to_rows(self) -> list[dict[str, Any]]:
        """A row of a table for each object: where it is, its class, score and the edges of its box, its track."""
        tracks = [None] * len(self.scores) if self.track_ids is None else self.track_ids.tolist()
        return [
            {
                "source": self.source,
                "frame": self.frame,
                "time_s": self.time_s,
                "name": d.name,
                "label": d.label,
                "score": round(d.score, 4),
                **dict(zip(("x1", "y1", "x2", "y2"), (round(v, 2) for v in d.box_xyxy), strict=True)),
                "track_id": track_id,
            }
            for d, track_id in zip(self, tracks, strict=True)
        ]

    def to_dataframe(self) -> Any:
        """`to_rows` as a `pandas.DataFrame`, which has its columns also where nothing was found.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise ImportError("to_dataframe needs the package pandas: pip install pandas") from None
        return pandas.DataFrame(self.to_rows(), columns=list(ROW_NAMES))

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

    def to_yolo(self, scores: bool = True) -> list[str]:
        """Lines of a YOLO label file: label, centre and size of the box as shares of the image.

        Args:
            scores: the score behind them, as Ultralytics' `save_conf` has it; a training set has none.
        """
        height, width = self.image_size
        lines = []
        for (x1, y1, x2, y2), score, label, _ in self:
            shares = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height
            numbers = [*(min(max(share, 0.0), 1.0) for share in shares), *([score] if scores else [])]
            lines.append(" ".join([str(label), *(f"{number:.6g}" for number in numbers)]))
        return lines

    def to_supervision(self) -> Any:
        """The same as `supervision.Detections`, class names under `data["class_name"]`, `track_ids` as `tracker_id`.

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
            tracker_id=None if self.track_ids is None else self.track_ids.numpy(),
            data={"class_name": np.array([self.names[label] for label in self.labels.tolist()], dtype=str)},
        )


ROW_NAMES = ("source", "frame", "time_s", "name", "label", "score", "x1", "y1", "x2", "y2", "track_id")
"""Columns of `to_rows`."""
