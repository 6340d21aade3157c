"""dyzoo's data sets for transformers' `Trainer`, and batches of pictures of different sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from dyzoo.data import DetectionDataset
from dyzoo.hf_transformers.processing import DyzooImageProcessor


class Examples(Dataset[dict[str, Any]]):
    """The pictures and objects of a data set as a model's input, one at a time; crowd regions are marked as such.

    Args:
        dataset: see `dyzoo.data.open_dataset`; its `transform` is not applied.
        processor: the model's.
        labels: classes of the model, by whose order they are numbered; None: the data set's own.

    Raises:
        ValueError: the data set has a class that the model does not have.
    """

    def __init__(
        self, dataset: DetectionDataset, processor: DyzooImageProcessor, labels: Sequence[str] | None = None
    ) -> None:
        numbers = {label: number for number, label in enumerate(dataset.labels if labels is None else labels)}
        if unknown := [label for label in dataset.labels if label not in numbers]:
            raise ValueError(f"the data set has the class {unknown[0]!r}, which is none of the model's {len(numbers)}")
        self.dataset = dataset
        self.processor = processor
        self._classes = [numbers[label] for label in dataset.labels]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One picture's "pixel_values" (3, H, W), "pixel_mask" (H, W) and "labels". Raises `ImageError`."""
        sample = self.dataset.samples[index]
        objects = [
            {
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "category_id": self._classes[label],
                "iscrowd": int(crowd),
                "area": area,
            }
            for (x1, y1, x2, y2), label, crowd, area in zip(
                *(values.tolist() for values in (sample.boxes_xyxy, sample.labels, sample.crowd, sample.areas_px2)),
                strict=True,
            )
        ]
        encoded = self.processor(sample.image_path, annotations={"image_id": sample.image_id, "annotations": objects})
        return {name: values[0] for name, values in encoded.items()}


def collate(examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch of examples of any sizes, for `Trainer(data_collator=collate)`.

    Args:
        examples: each with "pixel_values" (3, H, W), if wanted "pixel_mask" (H, W) and "labels".

    Returns:
        "pixel_values" (N, 3, H, W) and "pixel_mask" (N, H, W), padded to the largest, and "labels", a list.
    """
    height, width = (max(example["pixel_values"].shape[side] for example in examples) for side in (-2, -1))

    def padded(values: Tensor) -> Tensor:
        return F.pad(values, (0, width - values.shape[-1], 0, height - values.shape[-2]))

    pictures = [torch.as_tensor(example["pixel_values"]) for example in examples]
    masks = [
        torch.as_tensor(example.get("pixel_mask", torch.ones(picture.shape[-2:], dtype=torch.int64)))
        for example, picture in zip(examples, pictures, strict=True)
    ]
    batch: dict[str, Any] = {
        "pixel_values": torch.stack([padded(picture) for picture in pictures]),
        "pixel_mask": torch.stack([padded(mask) for mask in masks]),
    }
    if "labels" in examples[0]:
        batch["labels"] = [example["labels"] for example in examples]
    return batch
