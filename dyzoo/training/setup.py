"""From the settings of a run to its data and its untrained model."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from dyzoo.config import DetectorConfig
from dyzoo.config.training import ResolvedConfig, TrainConfig
from dyzoo.data import DetectionDataset, open_dataset
from dyzoo.data.loader import EpochLoader, build_loader
from dyzoo.data.mixing import Mixing
from dyzoo.data.transforms import SPECK_PX, count_small, train_transform
from dyzoo.errors import TrainingError
from dyzoo.model.detector import Detector
from dyzoo.training.processes import Processes
from dyzoo.zoo.creation import load_model
from dyzoo.zoo.names import model_config


def open_splits(config: TrainConfig, console: Console) -> tuple[DetectionDataset, DetectionDataset]:
    """The training and the validation split, with the classes of the first; says what is in them."""
    train_set = open_dataset(config.data, split=config.train_split)
    val_set = open_dataset(config.data, split=config.val_split, labels=train_set.labels)
    for dataset, split in ((train_set, config.train_split), (val_set, config.val_split)):
        boxes = sum(len(sample.labels) for sample in dataset.samples)
        console.print(f"{split}: {len(dataset)} images, {boxes} boxes, classes {', '.join(dataset.labels)}")
        for note in dataset.notes:
            console.print(f"  {note}")
    return train_set, val_set


def starting_detector(config: TrainConfig) -> Detector | None:
    """The detector that the run starts from, if it starts from one.

    Raises:
        TrainingError: another architecture was asked for.
    """
    if config.weights is None:
        return None
    source = load_model(config.weights)
    if config.model not in (TrainConfig.model, source.config.architecture, config.weights):
        raise TrainingError(
            f"{config.weights} is a {source.config.architecture}, the model asked for is {config.model}: "
            "leave out --model, or --weights"
        )
    return source


def detector_config(config: TrainConfig, labels: tuple[str, ...], source: Detector | None = None) -> DetectorConfig:
    """The configuration of the architecture, or of the starting detector, with the run's labels, backbone and size."""
    detector = (model_config(config.model) if source is None else source.config).with_labels(labels)
    if config.backbone is not None:
        detector = replace(detector, backbone=replace(detector.backbone, name=config.backbone))
    if config.size_px is None:
        return detector
    return replace(detector, preprocess=detector.preprocess.at(config.size_px))


def training_loader(
    config: ResolvedConfig, dataset: DetectionDataset, detector: DetectorConfig, processes: Processes
) -> EpochLoader:
    """Augmented batches of this process."""
    size = (detector.preprocess.shortest_edge, detector.preprocess.longest_edge)
    dataset.transform = train_transform(size, config.transform)
    if specks := count_small(dataset.samples, size, SPECK_PX):
        what = f"{specks} boxes are less than {SPECK_PX} pixels wide or high at {size[0]} x {size[1]} pixels"
        processes.console.print(f"{config.train_split}: {what}, too small to be learnt: choose a larger --size")
    return build_loader(
        dataset,
        config.batch_size,
        seed=config.seed,
        workers=config.workers,
        process=processes.index,
        processes=processes.count,
        mixing=Mixing(size, config.transform),
        mixed_epochs=config.transform.mixed_epochs(config.epochs),
    )
