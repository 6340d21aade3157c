"""The model zoo: detectors by the name of an architecture, a checkpoint, a folder or a repository."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import torch

from dyzoo import hub
from dyzoo.config.architectures import ARCHITECTURES
from dyzoo.errors import CheckpointError, UnknownModelError
from dyzoo.files import sha256
from dyzoo.hub.pretrained import CONFIG_NAME
from dyzoo.hub.run_card import BEST_NAME
from dyzoo.model.detector import Detector
from dyzoo.zoo.catalog import checkpoints, weights_folder
from dyzoo.zoo.names import model_config, unknown


def create_model(
    name: str,
    *,
    pretrained: bool = False,
    labels: Sequence[str] | None = None,
    backbone: str | None = None,
    pretrained_backbone: bool | str | Path = False,
) -> Detector:
    """Build a detector by name, in evaluation mode: call `train()` on it for losses.

    Args:
        name: an architecture, or with `pretrained` a checkpoint `architecture.tag` (the tag may be left out where
            there is only one).
        pretrained: load the checkpoint's weights; its labels come with it.
        labels: class names of a new detector, default COCO's 80.
        backbone: any other timm backbone with maps of strides 8, 16 and 32, and 4 for Faster R-CNN.
        pretrained_backbone: start from timm's published backbone weights, or from a local file of them.

    Raises:
        UnknownModelError: no such architecture, checkpoint or backbone; the message suggests the nearest names.
        CheckpointError: the weights are missing or not those of the catalogue.
        HubError: the catalogue has them on the Hugging Face Hub, and neither it nor its cache has them to give.
        ValueError: `pretrained` together with `labels` or `backbone`, which belong to a new detector.
    """
    if pretrained:
        if labels is not None or backbone is not None:
            raise ValueError("labels and backbone come with a pretrained detector: leave them out, or pretrained=False")
        return _load_checkpoint(name)
    config = model_config(name)
    if labels is not None:
        config = replace(config, labels=tuple(labels))
    if backbone is not None:
        config = replace(config, backbone=replace(config.backbone, name=backbone))
    if isinstance(pretrained_backbone, str):
        pretrained_backbone = Path(pretrained_backbone)
    return Detector(config, pretrained_backbone).eval()


def load_model(name_or_folder: str | Path, device: str | torch.device = "cpu") -> Detector:
    """A trained detector from wherever it is.

    Args:
        name_or_folder: a checkpoint name, a `save_pretrained` folder, the folder of a training run, or a repository of
            the Hugging Face Hub, `org/name` or `org/name@revision`.
        device: device of the model.

    Raises:
        UnknownModelError: it is none of these; the message suggests the nearest names.
        CheckpointError: its files are missing or damaged.
        HubError: the repository is not there, not yours to see, or neither reachable nor in the cache.
    """
    folder = Path(name_or_folder)
    if folder.is_dir():
        best = folder / BEST_NAME
        return Detector.from_pretrained(best if best.is_dir() else folder, device)
    if hub.is_hub_id(name_or_folder):
        return Detector.from_pretrained(name_or_folder, device)
    return create_model(str(name_or_folder), pretrained=True).to(device)


def _load_checkpoint(name: str) -> Detector:
    known = checkpoints()
    matches = [name] if name in known else [key for key in known if key.split(".")[0] == name]
    if not matches:
        if name in ARCHITECTURES:
            raise UnknownModelError(
                f"{name} has no published weights here, only {', '.join(known)}: train it, or name the folder of a run"
            )
        otherwise = f"or a folder with {CONFIG_NAME} and model.safetensors, or org/name on the Hugging Face Hub"
        raise unknown(name, [*known, *ARCHITECTURES], otherwise)
    if len(matches) > 1:
        raise UnknownModelError(f"{name} has several checkpoints, name one: {', '.join(matches)}")
    checkpoint = known[matches[0]]
    config_name = str(PurePosixPath(checkpoint.file).with_name(CONFIG_NAME))
    if checkpoint.repo_id is None:
        folder = weights_folder() / str(checkpoint.folder)
        config_path, weights_path = folder / config_name, folder / checkpoint.file
        mend = "install dyzoo again"
    else:
        config_path, weights_path = hub.download(
            checkpoint.repo_id, (config_name, checkpoint.file), revision=checkpoint.revision
        )
        mend = hub.mend_hint(checkpoint.repo_id, checkpoint.revision)
    for path in (config_path, weights_path):
        if not path.is_file():
            raise CheckpointError(f"{path} of {checkpoint.name} is not there: {mend}")
    if sha256(weights_path) != checkpoint.sha256:
        raise CheckpointError(f"{weights_path} is not the file of the catalogue (sha256 differs): {mend}")
    return Detector.from_files(config_path, weights_path, repo_id=checkpoint.repo_id, mend_hint=mend)
