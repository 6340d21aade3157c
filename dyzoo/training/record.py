"""The settings of a run and all it was made of, for whoever wants to repeat it: `train.json` and `run.json`."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from dyzoo._version import __version__
from dyzoo.config.training import TrainConfig
from dyzoo.data import DetectionDataset
from dyzoo.files import write_text
from dyzoo.training.setup import Setup

PACKAGES = ("torchvision", "timm", "accelerate", "numpy", "pillow", "pycocotools", "triton")


def fingerprint(dataset: DetectionDataset) -> str:
    """SHA-256 of all labels and of the images' names and sizes (in pixels and bytes), wherever the folder lies."""
    digest = hashlib.sha256(json.dumps([dataset.labels, dataset.category_ids]).encode())
    for sample in dataset.samples:
        path = sample.image_path
        size = path.stat().st_size if path.is_file() else -1
        place = [path.name, size, sample.width_px, sample.height_px, sample.image_id]
        digest.update(json.dumps(place).encode())
        for values in (sample.boxes_xyxy, sample.labels, sample.crowd):
            digest.update(values.tobytes())
    return digest.hexdigest()


def description(dataset: DetectionDataset) -> dict[str, Any]:
    """The entry of a split in a record; reads the size of every image file."""
    return {"images": len(dataset), "labels": list(dataset.labels), "sha256": fingerprint(dataset)}


def write_records(setup: Setup, train_description: dict[str, Any], resumed_at_step: int | None) -> None:
    """Write `train.json` and `run.json` into the run's folder.

    Args:
        setup: the run.
        train_description: the `description` of its training split.
        resumed_at_step: where the run went on, None for a new one.
    """
    config, processes, state = setup.config, setup.processes, setup.state
    data = {config.train_split: train_description, config.val_split: description(setup.val_set)}
    measured = {
        "processes": processes.count,
        "images_per_step": state.joined_batch_size,
        "device": processes.device.type,
        "precision": str(state.precision).removeprefix("torch."),
    }
    write_text(config.folder / "train.json", config.to_json())
    write_text(config.folder / "run.json", run_record(config, data, measured, resumed_at_step))


def run_record(
    config: TrainConfig, data: dict[str, dict[str, Any]], measured: dict[str, Any], resumed_at_step: int | None
) -> str:
    """The text of `run.json`: settings, versions, data and what the run chose itself; nothing of the machine's paths.

    Args:
        config: as the user gave it.
        data: the `description` of each split by its name.
        measured: processes, precision and other values that settings alone do not tell.
        resumed_at_step: where the run went on, None for a new one.
    """
    record = {
        "versions": {
            "dyzoo": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            **_versions(),
        },
        "data": data,
        "resumed_at_step": resumed_at_step,
        **measured,
        "config": asdict(config),
    }
    return json.dumps(record, indent=2, default=str) + "\n"


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # triton is not everywhere
            continue
    return found
