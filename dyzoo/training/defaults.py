"""Epochs, batch size and image size, chosen where the settings of a run leave them open."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dyzoo.config import DetectorConfig
from dyzoo.config.training import LEFT_OPEN, ResolvedConfig, TrainConfig
from dyzoo.data import DetectionDataset
from dyzoo.data.small import SMALL_PX, SPECK_PX, sides_in_training
from dyzoo.errors import TrainingError, first_line
from dyzoo.model.sizes import resized_size
from dyzoo.training.memory import bytes_per_image, free_bytes, state_bytes

FEWEST_EPOCHS, MOST_EPOCHS = 12, 300
MOST_IMAGES_IN_A_STEP = 16
STEPS_PER_EPOCH = 50
MOST_ENLARGED = 2.0
SMALLEST_EDGE_PX = 160
MANY_SMALL = 0.25
_USABLE = 0.8  # share of the free memory; the rest is for other programs and what the estimate does not know of
_EDGE_STEP_PX = 32


def default_epochs(images: int) -> int:
    """Epochs that fall with the square root of the number of images: more images are passed over less often, while
    the number of images seen still grows. 12, the published "1x" schedule, from 5,000 images on; 300 at most."""
    return min(max(round(860 / math.sqrt(max(images, 1))), FEWEST_EPOCHS), MOST_EPOCHS)


def default_images_in_a_step(images: int) -> int:
    """The published 16, or a smaller power of two that makes an epoch of at least 50 steps; never less than 2."""
    most = max(images // STEPS_PER_EPOCH, 2)
    return min(2 ** int(math.log2(most)), MOST_IMAGES_IN_A_STEP)


def default_size(dataset: DetectionDataset, shortest_edge_px: int) -> int:
    """The architecture's shortest edge, less where most images would be enlarged more than twofold by it."""
    edges = [min(sample.width_px, sample.height_px) for sample in dataset.samples]
    most = _EDGE_STEP_PX * math.ceil(MOST_ENLARGED * float(np.median(edges)) / _EDGE_STEP_PX)
    return min(shortest_edge_px, most)


def recorded_choices(run: Path) -> dict[str, int]:
    """The choices of an earlier part of a run, from its `train.json`; empty where that tells nothing."""
    try:
        known = json.loads((run / "train.json").read_text(encoding="utf-8"))
        return {name: known[name] for name in LEFT_OPEN if isinstance(known.get(name), int) and known[name] > 0}
    except (OSError, ValueError, AttributeError):
        return {}


def resolve(
    config: TrainConfig,
    dataset: DetectionDataset,
    detector: DetectorConfig,
    device: torch.device,
    processes: int,
    precision: torch.dtype,
    say: Callable[[str], Any] = print,
) -> ResolvedConfig:
    """The settings with nothing left open, and a line for what was chosen.

    The batch is what `default_images_in_a_step` says, shared by the processes, as far as it fits into the free memory
    of the device; where not even one image fits, images become smaller, unless their size was given.

    Args:
        config: as the user gave it.
        dataset: the training split.
        detector: with the classes of the run.
        device, processes, precision: those of the run.
        say: told what was chosen.

    Raises:
        TrainingError: not even small images fit into memory.
    """
    left_open = [name for name in LEFT_OPEN if getattr(config, name) is None]
    if config.resume:
        recorded = recorded_choices(config.folder)
        config = replace(config, **{name: recorded[name] for name in left_open if name in recorded})  # type: ignore[arg-type]
    epochs = config.epochs or default_epochs(len(dataset))
    size_px = config.size_px or default_size(dataset, detector.preprocess.shortest_edge)
    batch_size = config.batch_size
    if batch_size is None:
        wanted = max(default_images_in_a_step(len(dataset)) // processes, 1)
        room = _USABLE * free_bytes(device) - state_bytes(detector, config.ema_decay > 0)
        smallest_px = size_px if config.size_px else min(size_px, SMALLEST_EDGE_PX)

        def needed(edge_px: int) -> float:
            size = _largest_size(dataset, detector, config, edge_px)
            try:
                return bytes_per_image(detector, size, precision)
            except (RuntimeError, AssertionError, ValueError, TypeError) as error:  # a backbone that wants real images
                say(f"how much memory {detector.backbone.name} needs cannot be told ({first_line(error)})")
                return 0.0

        batch_size, size_px = _that_fit(wanted, range(size_px, smallest_px - 1, -_EDGE_STEP_PX), room, needed)
    values = {"epochs": epochs, "batch_size": batch_size, "size_px": size_px}
    if left_open:
        words = {"epochs": "{} epochs", "batch_size": "{} images in a batch", "size_px": "shortest edge {} px"}
        say("chosen: " + ", ".join(words[name].format(values[name]) for name in left_open))
    for line in _small_boxes(dataset, (size_px, detector.preprocess.at(size_px).longest_edge)):
        say(f"{config.train_split}: {line}")
    given = {field.name: getattr(config, field.name) for field in fields(TrainConfig)}
    return ResolvedConfig(**{**given, **values})


def _that_fit(wanted: int, sizes_px: Sequence[int], room: float, needed: Callable[[int], float]) -> tuple[int, int]:
    """As many images as wanted, or fewer, or one of a smaller shortest edge; with that edge.

    Args:
        sizes_px: edges to try, the preferred one first.
        room: bytes.
        needed: bytes of an image with that edge; 0 if that is not known, and then all are taken to fit.
    """
    for size_px in sizes_px:
        each = needed(size_px)
        if not each:
            return wanted, size_px
        if each <= room:
            return min(wanted, 2 ** int(math.log2(room / each))), size_px
    raise TrainingError(
        f"one image with a shortest edge of {size_px} px needs about {each / 1e9:.1f} GB to train on, "
        f"{max(room, 0) / 1e9:.1f} GB are free: give a smaller --size or --model, or --batch-size 1 to try"
    )


def _small_boxes(dataset: DetectionDataset, size_px: tuple[int, int]) -> Iterator[str]:
    """A line on the boxes that cannot be learnt at a size (shortest and longest edge), and one on many small ones."""
    sides = np.concatenate([np.zeros((0, 2)), *(sides_in_training(sample, size_px) for sample in dataset.samples)])
    shorter = sides.min(axis=1)
    specks, small = (int((shorter < limit).sum()) for limit in (SPECK_PX, SMALL_PX))
    if specks:
        what = f"{specks} boxes are less than {SPECK_PX} pixels wide or high at {size_px[0]} x {size_px[1]} pixels"
        yield f"{what}, too small to be learnt: choose a larger --size"
    if small > MANY_SMALL * len(shorter):
        what = f"{small} of {len(shorter)} boxes are under {SMALL_PX} px wide or high"
        yield f"{what} at this size: consider a larger --size"


def _largest_size(
    dataset: DetectionDataset, detector: DetectorConfig, config: TrainConfig, size_px: int
) -> tuple[int, int]:
    """(H, W) that holds every image of the data at the largest that augmentation makes of it."""
    preprocess = detector.preprocess.at(round(size_px * config.transform.scale_range[1]))
    sizes = [
        resized_size(height, width, preprocess.shortest_edge, preprocess.longest_edge)
        for height, width in {(sample.height_px, sample.width_px) for sample in dataset.samples}
    ]
    return max(height for height, _ in sizes), max(width for _, width in sizes)
