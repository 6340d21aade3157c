"""The one dataset type that every format becomes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as TF

from dyzoo.data.records import Sample
from dyzoo.errors import DatasetError, DyzooWarning, ImageError
from dyzoo.images.reading import read_image
from dyzoo.model.targets import Target

Transform = Callable[[torch.Tensor, Target], tuple[torch.Tensor, Target]]


class DetectionDataset(Dataset[tuple[torch.Tensor, Target]]):
    """Images with their boxes, ready for training; `dyzoo.data.open_dataset` makes one of a folder.

    Attributes:
        samples: paths, sizes, boxes, labels and crowd regions, without pixels.
        labels: class names; a sample's label is an index into them.
        category_ids: the number that each of `labels` has in the label files, for export.
        notes: one line for each kind of thing that was dropped or mended.
        transform: applied to `dataset[i]`; None leaves it as read.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        labels: Sequence[str],
        category_ids: Sequence[int] | None = None,
        notes: Sequence[str] = (),
        transform: Transform | None = None,
    ) -> None:
        self.samples = list(samples)
        self.labels = tuple(labels)
        self.category_ids = tuple(category_ids if category_ids is not None else range(1, len(self.labels) + 1))
        self.notes = list(notes)
        self.transform = transform
        self._unreadable: set[int] = set()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Target]:
        """One training sample.

        An image that cannot be read is named in a warning, once, and the next readable one takes its place.

        Returns:
            image: (3, H, W) uint8 RGB, `tv_tensors.Image` unless `transform` makes something else of it.
            target: "boxes" (M, 4) float32 xyxy `tv_tensors.BoundingBoxes`, "labels" (M,) int64 and "image_id";
                crowd regions are left out.

        Raises:
            IndexError: `index` is out of range.
            DatasetError: not one image can be read.
        """
        image, target = self.load(index)
        return (image, target) if self.transform is None else self.transform(image, target)

    def load(self, index: int) -> tuple[torch.Tensor, Target]:
        """The sample that `dataset[index]` passes through `transform`."""
        first = range(len(self))[index]
        failures: dict[int, ImageError] = {}
        for offset in range(len(self)):
            position = (first + offset) % len(self)
            try:
                loaded = self._load(self.samples[position])
            except ImageError as error:
                failures[position] = error
                continue
            for lost, failure in failures.items():
                if lost not in self._unreadable:
                    warnings.warn(f"{failure}; another image takes its place", DyzooWarning, stacklevel=2)
            self._unreadable.update(failures)
            return loaded
        raise DatasetError(f"none of the {len(self)} images can be read: {failures[first]}")

    def _load(self, sample: Sample) -> tuple[torch.Tensor, Target]:
        image = tv_tensors.Image(TF.pil_to_tensor(read_image(sample.image_path)))
        boxes = torch.from_numpy(sample.boxes_xyxy[~sample.crowd])
        height_px, width_px = image.shape[-2:]
        target: Target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height_px, width_px)),  # type: ignore[call-overload]
            "labels": torch.from_numpy(sample.labels[~sample.crowd]),
            "image_id": sample.image_id,
        }
        return image, target
