"""A real dataset with real dirt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dyzoo.data import build_loader, list_splits, open_dataset, train_transform


@pytest.mark.parametrize(
    ("split", "images", "boxes", "note"),
    [
        ("train", 205, 2804, "boxes without area, dropped: 1 (BloodImage_00343.jpg at 181 329 181 329)"),
        ("val", 87, 1137, "boxes without area, dropped: 1 (BloodImage_00338.jpg at 504 337 504 337)"),
    ],
)
def test_splits(split: str, images: int, boxes: int, note: str, bccd_folder: Path) -> None:
    dataset = open_dataset(bccd_folder, split)
    assert dataset.labels == ("Platelets", "RBC", "WBC")
    assert dataset.notes == [note]
    assert len(dataset) == images
    assert sum(len(sample.labels) for sample in dataset.samples) == boxes
    for sample in dataset.samples:
        corners = sample.boxes_xyxy
        assert (corners[:, :2] >= 0).all()
        assert (corners[:, 2:] <= np.array([sample.width_px, sample.height_px])).all()
        assert (corners[:, 2:] > corners[:, :2]).all()


def test_names_of_the_splits(bccd_folder: Path) -> None:
    assert list_splits(bccd_folder) == ("train", "trainval", "val")


def test_a_batch_for_training(bccd_folder: Path) -> None:
    dataset = open_dataset(bccd_folder, "train")
    dataset.transform = train_transform((320, 533))
    images, targets = next(iter(build_loader(dataset, 4)))
    assert all(image.dtype == torch.uint8 and image.float().std() > 5 for image in images)
    assert all(len(target["boxes"]) > 0 for target in targets)
