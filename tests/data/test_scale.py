"""The training scale: measured from a dataset, written by training, and true of the embedded detector."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dyzoo.config import PreprocessConfig, TrainingScale
from dyzoo.data import DetectionDataset, Sample, open_dataset
from dyzoo.data.scale import training_scale
from dyzoo.zoo.creation import load_checkpoint
from dyzoo.zoo.names import DEFAULT_MODEL

PREPROCESS = PreprocessConfig(shortest_edge=100, longest_edge=200)


def dataset(*pictures: tuple[int, int, list[list[float]]]) -> DetectionDataset:
    samples = [
        Sample(
            image_path=Path(f"{number}.png"),
            image_id=number,
            width_px=width,
            height_px=height,
            boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
            labels=np.zeros(len(boxes), np.int64),
            crowd=np.zeros(len(boxes), bool),
        )
        for number, (height, width, boxes) in enumerate(pictures)
    ]
    return DetectionDataset(samples, ("cell",))


def test_objects_are_measured_as_the_network_sees_them() -> None:
    """Three objects of 20 px in the network, in pictures of 200, 200 and 400 px that become 100."""
    small = (200, 300, [[0.0, 0, 40, 40]])
    large = (400, 600, [[0.0, 0, 160, 40]])
    assert training_scale(dataset(small, small, large), PREPROCESS) == TrainingScale((200, 300), 40.0)


def test_a_dataset_without_objects_has_no_scale() -> None:
    assert training_scale(dataset((200, 300, [])), PREPROCESS) is None


def test_the_embedded_detector_has_that_of_its_training_split(bccd_folder: Path) -> None:
    config = load_checkpoint(DEFAULT_MODEL).config.preprocess
    assert config.training_scale == training_scale(open_dataset(bccd_folder, split="train"), config)
