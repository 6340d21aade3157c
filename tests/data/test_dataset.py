"""Samples that a dataset hands out."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torchvision import tv_tensors

from dyzoo.data import DetectionDataset, open_dataset
from dyzoo.errors import DatasetError
from tests.data.data_builders import write_voc

CAT = ("cat", (1, 2, 11, 22))


@pytest.fixture
def dataset(tmp_path: Path) -> DetectionDataset:
    return open_dataset(write_voc(tmp_path, {"a": [CAT], "b": [CAT, ("cat", (3, 3, 9, 9))], "c": []}))


def test_types_and_shapes(dataset: DetectionDataset) -> None:
    for index, count in enumerate((1, 2, 0)):
        image, target = dataset[index]
        assert isinstance(image, tv_tensors.Image)
        assert image.dtype == torch.uint8
        assert image.shape == (3, 30, 40)
        assert isinstance(target["boxes"], tv_tensors.BoundingBoxes)
        assert target["boxes"].canvas_size == (30, 40)
        assert target["boxes"].shape == (count, 4)
        assert target["boxes"].dtype == torch.float32
        assert target["labels"].shape == (count,)
        assert target["labels"].dtype == torch.int64
        assert target["image_id"] == dataset.samples[index].image_id


def test_is_a_sequence(dataset: DetectionDataset) -> None:
    assert len(dataset) == 3
    assert dataset[-1][1]["image_id"] == dataset[2][1]["image_id"]
    with pytest.raises(IndexError):
        dataset[3]
    assert len(list(dataset)) == 3


def test_what_it_hands_out_can_be_changed_without_harm(dataset: DetectionDataset) -> None:
    dataset[0][1]["boxes"].zero_()
    assert dataset[0][1]["boxes"].tolist() == [[1, 2, 11, 22]]


def test_an_image_lost_after_opening_is_named_once_and_replaced(dataset: DetectionDataset) -> None:
    dataset.samples[0].image_path.unlink()
    with pytest.warns(UserWarning, match=r"a\.jpg: no such file; another image takes its place") as caught:
        image, target = dataset[0]
    assert len(caught) == 1
    assert image.shape == (3, 30, 40)
    assert target["image_id"] == dataset.samples[1].image_id
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dataset[0][1]["image_id"] == dataset.samples[1].image_id


def test_no_readable_image_is_an_error(dataset: DetectionDataset) -> None:
    """One line, however many there are."""
    for sample in dataset.samples:
        sample.image_path.write_bytes(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DatasetError, match=r"none of the 3 images can be read: .*b\.jpg is empty"):
            dataset[1]


def test_the_transform_sees_image_and_target(dataset: DetectionDataset) -> None:
    dataset.transform = lambda image, target: (image.float(), {"count": len(target["labels"])})
    image, target = dataset[1]
    assert image.dtype == torch.float32
    assert target == {"count": 2}
