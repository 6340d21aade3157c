"""`Detections`: what a detector found in one image, to choose from, to draw and to hand on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from dyzoo.images.colors import class_color
from dyzoo.images.crops import class_folders, cut_out
from dyzoo.images.drawing import draw_boxes, save_picture
from dyzoo.images.exports import Detection as Detection
from dyzoo.images.exports import Exports
from dyzoo.images.reading import ImageSource, Picture, to_picture

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, eq=False)
class Detections(Exports):
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
        track_ids: (M,) int64, the same number for the same object in all frames of a film, -1 for one that is in no
            track; None without tracking (`dyzoo.track`).
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

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], names: Sequence[str]) -> Detections:
        """Detections from `to_dict`.

        Args:
            values: those of `to_dict`.
            names: name of every class the detector knows.

        Raises:
            KeyError, TypeError, ValueError: they are not those.
        """
        found = values["detections"]
        tracks = [each["track_id"] for each in found if "track_id" in each]
        return cls(
            boxes_xyxy=torch.tensor([each["box_xyxy"] for each in found], dtype=torch.float32).reshape(-1, 4),
            scores=torch.tensor([each["score"] for each in found], dtype=torch.float32),
            labels=torch.tensor([each["label"] for each in found], dtype=torch.int64),
            names=tuple(names),
            image_size=(values["height_px"], values["width_px"]),
            path=None if values["path"] is None else Path(values["path"]),
            source=values["source"],
            frame=values["frame"],
            time_s=values["time_s"],
            notes=tuple(values["notes"]),
            track_ids=torch.tensor(tracks, dtype=torch.int64) if tracks else None,
        )

    def __len__(self) -> int:
        return len(self.scores)

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
        if isinstance(index, str):
            raise TypeError(f"detections[{index!r}]: expected a number, slice, mask or indices, or filter(classes=...)")
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

    def filter(
        self, threshold: float | Mapping[str, float] = 0.0, classes: str | Sequence[str] | None = None
    ) -> Detections:
        """The detections of some classes with a score of at least `threshold`.

        Args:
            threshold: for all classes, or by class; those that it does not name keep all.
            classes: names of those to keep; None for all.

        Raises:
            ValueError: no class is called so.
        """
        wanted = self.names if classes is None else (classes,) if isinstance(classes, str) else tuple(classes)
        by_class = dict(threshold) if isinstance(threshold, Mapping) else dict.fromkeys(self.names, threshold)
        if unknown := [name for name in (*wanted, *by_class) if name not in self.names]:
            raise ValueError(f"no class is called {unknown[0]!r}, expected some of {', '.join(self.names[:10])}")
        least = self.scores.new_tensor(
            [by_class.get(name, 0.0) if name in wanted else float("inf") for name in self.names]
        )
        return self[self.scores >= least[self.labels]]

    @property
    def class_names(self) -> list[str]:
        """The name of each detection's class, in order."""
        return [self.names[label] for label in self.labels.tolist()]

    def counts(self) -> dict[str, int]:
        """Number of detections of each class that was found, the most frequent first."""
        per_label = torch.bincount(self.labels, minlength=len(self.names)).tolist()
        found = [(name, count) for name, count in zip(self.names, per_label, strict=True) if count]
        return dict(sorted(found, key=lambda item: -item[1]))

    def plot(self, image: ImageSource | None = None) -> Image.Image:
        """The image with boxes, class names and scores drawn on it, and the number of the track where there is one.

        Each class has its colour, or each track. The picture has the size of the image; a small one is enlarged by a
        whole number, so that labels have room. A JPEG of more than `dyzoo.images.reading.REDUCED_ABOVE` pixels is read
        and drawn on at a reduced scale.

        Args:
            image: the image given to `predict`; without it the `picture` kept, or else `path` is read again.

        Raises:
            ValueError: there is none of them, or the image is not of `image_size`.
            ImageError: the image cannot be read.
        """
        picture, boxes = self._picture(image)
        tracks = [-1] * len(self) if self.track_ids is None else self.track_ids.tolist()
        return draw_boxes(
            picture.image,
            boxes,
            [f"{d.name}{f' #{track}' * (track >= 0)} {d.score:.2f}" for d, track in zip(self, tracks, strict=True)],
            [class_color(d.label if track < 0 else track) for d, track in zip(self, tracks, strict=True)],
        )

    def save(self, path: str | Path, image: ImageSource | None = None) -> None:
        """Write what `plot` gives, in the format of the suffix (.jpg, .png, ...), aside and then renamed.

        Raises:
            ValueError: no format has this suffix, or as `plot`.
            OSError: it cannot be written.
        """
        save_picture(self.plot(image), Path(path))

    def crops(self, image: ImageSource | None = None) -> list[Image.Image]:
        """The part of the image in each box, in order; of an image that was read at a reduced scale, at that scale.

        Args:
            image: as for `plot`, which says what is raised.
        """
        picture, boxes = self._picture(image)
        return cut_out(picture.image, boxes)

    def save_crops(self, folder: str | Path, stem: str = "", image: ImageSource | None = None) -> list[Path]:
        """Write `crops` as FOLDER/CLASS/STEM_1.png, STEM_2.png, ..., numbered as the detections are.

        A class whose name is none for a folder gets one that is, inside `folder`.

        Args:
            folder: made if it is not there.
            stem: begin of the files' names; empty: that of `path`, or "image".
            image: as for `plot`, which says what is raised.

        Raises:
            OSError: one cannot be written.
        """
        stem = stem or (self.path.stem if self.path is not None else "image")
        homes = class_folders(self.names)
        paths = []
        for number, (label, crop) in enumerate(zip(self.labels.tolist(), self.crops(image), strict=True), 1):
            paths.append(Path(folder) / homes[label] / f"{stem}_{number}.png")
            save_picture(crop, paths[-1], flush=False)
        return paths

    def _picture(self, image: ImageSource | None) -> tuple[Picture, list[list[float]]]:
        """The picture to draw on, and the boxes in its pixels."""
        source = next((each for each in (image, self.picture) if each is not None), None)
        if source is None:
            if self.path is None or self.frame is not None:
                what = "have no path" if self.path is None else "are those of one frame"
                raise ValueError(f"these detections {what}: give the image, or predict with keep_pictures=True")
            source = self.path
        picture = to_picture(source)
        if picture.size != self.image_size:
            raise ValueError(
                f"the image is {picture.size[0]} x {picture.size[1]} (H x W), the detections are for "
                f"{self.image_size[0]} x {self.image_size[1]}: draw on the image they were made from"
            )
        scale_x, scale_y = picture.image.width / self.image_size[1], picture.image.height / self.image_size[0]
        boxes = self.boxes_xyxy * self.boxes_xyxy.new_tensor([scale_x, scale_y, scale_x, scale_y])
        return picture, boxes.tolist()
