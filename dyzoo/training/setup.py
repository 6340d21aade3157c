"""From the settings of a run to its data, its untrained model and what changes with every step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console

from dyzoo.config import DetectorConfig
from dyzoo.config.training import ResolvedConfig, TrainConfig, parse_attentions
from dyzoo.data import DetectionDataset, open_dataset
from dyzoo.data.loader import EpochLoader, build_loader
from dyzoo.data.mixing import Mixing
from dyzoo.data.scale import training_scale
from dyzoo.data.transforms import train_transform
from dyzoo.errors import TrainingError
from dyzoo.model.detector import Detector
from dyzoo.model.transfer import start_from
from dyzoo.training.defaults import resolve
from dyzoo.training.optimizer import FrozenStages
from dyzoo.training.processes import Processes
from dyzoo.training.randomness import seed_process
from dyzoo.training.state import TrainingState
from dyzoo.zoo.creation import is_exported_file, load_model
from dyzoo.zoo.names import model_config


@dataclass(frozen=True)
class Setup:
    """Everything that a run is set up from, before its first step.

    Attributes:
        config: the settings, with nothing left open.
        processes: those that train together.
        train_set, val_set: the two splits, with the same classes.
        loader: augmented batches of this process.
        state: the model, its optimizer and averages.
        frozen: the stages of the backbone that do not learn.
    """

    config: ResolvedConfig
    processes: Processes
    train_set: DetectionDataset
    val_set: DetectionDataset
    loader: EpochLoader
    state: TrainingState
    frozen: FrozenStages


def set_up(config: TrainConfig, processes: Processes) -> Setup:
    """Open the data, choose what the settings leave open, and make the model.

    Raises:
        DatasetError: the dataset cannot be used.
        UnknownModelError: no such model or backbone weights.
        TrainingError: the settings do not fit each other, or the memory.
    """
    say = processes.console.print
    seed_process(config.seed)
    train_set, val_set = open_splits(config, processes.console)
    source = starting_detector(config, train_set.labels)
    detector = detector_config(config, train_set.labels, source)
    chosen = chosen_settings(config, train_set, detector, processes)
    preprocess = detector.preprocess.at(chosen.size_px)
    preprocess = replace(preprocess, training_scale=training_scale(train_set, preprocess))
    detector = replace(detector, preprocess=preprocess)
    model = starting_model(chosen, detector, source, processes)
    frozen = FrozenStages(model.backbone, chosen.freeze)
    loader = training_loader(chosen, train_set, detector, processes)
    state = TrainingState(model, chosen, processes, len(loader), len(train_set))
    if state.joined_batch_size > chosen.batch_size:
        say(f"a step: {chosen.batch_size} images x {chosen.accumulate} batches x {processes.count} processes")
    if processes.count > 1:  # other draws on each, from the same weights
        seed_process(chosen.seed, processes.index)
    return Setup(chosen, processes, train_set, val_set, loader, state, frozen)


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


def starting_detector(config: TrainConfig, labels: tuple[str, ...]) -> Detector | None:
    """The detector that the run starts from, if it starts from one; where classes are words, with these read already.

    Raises:
        LabelError: classes are words, and one of `labels` cannot be read.
        TrainingError: another architecture was asked for, or the weights are an exported file.
    """
    if config.weights is None:
        return None
    if is_exported_file(config.weights):
        raise TrainingError(f"{config.weights} cannot be trained, it is an exported file: name what it was exported of")
    source = load_model(config.weights, words=labels)
    if config.model not in (TrainConfig.model, source.config.architecture, config.weights):
        raise TrainingError(
            f"{config.weights} is a {source.config.architecture}, the model asked for is {config.model}: "
            "leave out --model, or --weights"
        )
    return source


def detector_config(config: TrainConfig, labels: tuple[str, ...], source: Detector | None = None) -> DetectorConfig:
    """The configuration of the architecture, or of the starting detector, with what the run has of its own."""
    detector = (model_config(config.model) if source is None else source.config).with_labels(labels)
    if config.backbone is not None:
        detector = replace(detector, backbone=replace(detector.backbone, name=config.backbone))
    changes: dict[str, Any] = {} if config.attentions is None else parse_attentions(config.attentions)
    changes |= {} if config.blocks is None else {"num_blocks": config.blocks}
    changes |= {} if config.form is None else {"form": config.form}
    detector = replace(detector, dyhead=replace(detector.dyhead, **changes))
    if config.size_px is None:
        return detector
    return replace(detector, preprocess=detector.preprocess.at(config.size_px))


def chosen_settings(
    config: TrainConfig, train_set: DetectionDataset, detector: DetectorConfig, processes: Processes
) -> ResolvedConfig:
    """The settings with nothing left open: the main process's choice, as the others may have less memory free."""
    device, count, precision = processes.device, processes.count, processes.precision(config.precision)
    say = processes.console.print
    return processes.on_main(lambda: resolve(config, train_set, detector, device, count, precision, say))


def starting_model(
    config: ResolvedConfig, detector: DetectorConfig, source: Detector | None, processes: Processes
) -> Detector:
    """The model on its device, with the weights to start from; says which classes it knows already.

    A run that goes on has its weights from a checkpoint, and starts with random ones here.
    """
    pretrained = config.backbone_weights or config.pretrained_backbone
    model = Detector(detector, False if config.resume or source is not None else pretrained)
    if source is not None and not config.resume:
        kept, new = (", ".join(labels) or "none" for labels in start_from(model, source))
        processes.console.print(f"starting from {config.weights}: classes it knows {kept}; new {new}")
    model = model.to(processes.device)
    return processes.share_batch_norm(model) if config.sync_bn else model


def training_loader(
    config: ResolvedConfig, dataset: DetectionDataset, detector: DetectorConfig, processes: Processes
) -> EpochLoader:
    """The loader of this process, with augmentation."""
    size = (detector.preprocess.shortest_edge, detector.preprocess.longest_edge)
    dataset.transform = train_transform(size, config.transform)
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
