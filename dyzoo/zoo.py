"""The model zoo: registered architectures, and the checkpoints (`architecture.tag`) of `weights/catalog.toml`."""

from __future__ import annotations

import difflib
import hashlib
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from dyzoo.config import ATSSConfig, BackboneConfig, DetectorConfig, DyHeadConfig, FPNConfig, PreprocessConfig
from dyzoo.detector import WEIGHTS_NAME, Detector
from dyzoo.errors import CheckpointError, UnknownModelError
from dyzoo.labels import COCO_LABELS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_MODEL = "dyhead_atss_resnet10t.bccd"
BEST_NAME = "best"  # the folder of a training run that holds its best detector

_ARCHITECTURES: dict[str, Callable[[], DetectorConfig]] = {}
ARCHITECTURES = MappingProxyType(_ARCHITECTURES)
"""Name -> function giving the configuration; the first docstring line describes it."""


def register(function: Callable[[], DetectorConfig]) -> Callable[[], DetectorConfig]:
    """Make an architecture known under the function's name."""
    _ARCHITECTURES[function.__name__] = function
    return function


def _atss(architecture: str, backbone: str, **changes: Any) -> DetectorConfig:
    return replace(
        DetectorConfig(architecture=architecture, labels=COCO_LABELS, backbone=BackboneConfig(name=backbone)), **changes
    )


@register
def dyhead_atss_resnet10t() -> DetectorConfig:
    """Small detector for CPUs and small data sets: 96 channels, two blocks, 320 px, anchors from 32 px up."""
    return _atss(
        "dyhead_atss_resnet10t",
        "resnet10t",
        fpn=FPNConfig(channels=96),
        dyhead=DyHeadConfig(channels=96, num_blocks=2),
        head=ATSSConfig(anchor_scale=4.0),
        preprocess=PreprocessConfig(shortest_edge=320, longest_edge=512, size_divisor=32),
    )


@register
def dyhead_atss_resnet18() -> DetectorConfig:
    """DyHead ATSS on ResNet-18, six blocks of 256 channels."""
    return _atss("dyhead_atss_resnet18", "resnet18")


@register
def dyhead_atss_resnet34() -> DetectorConfig:
    """DyHead ATSS on ResNet-34, six blocks of 256 channels."""
    return _atss("dyhead_atss_resnet34", "resnet34")


@register
def dyhead_atss_resnet50() -> DetectorConfig:
    """DyHead ATSS on ResNet-50 (Dai et al., CVPR 2021, table 6), six blocks of 256 channels."""
    return _atss("dyhead_atss_resnet50", "resnet50")


@register
def dyhead_atss_resnet101() -> DetectorConfig:
    """DyHead ATSS on ResNet-101 (Dai et al., CVPR 2021, table 6), six blocks of 256 channels."""
    return _atss("dyhead_atss_resnet101", "resnet101")


@register
def dyhead_atss_swin_tiny() -> DetectorConfig:
    """DyHead ATSS on Swin-T (microsoft/DynamicHead `dyhead_swint_atss_fpn_2x_ms`)."""
    return _atss("dyhead_atss_swin_tiny", "swin_tiny_patch4_window7_224")


@register
def dyhead_atss_swin_small() -> DetectorConfig:
    """DyHead ATSS on Swin-S, six blocks of 256 channels."""
    return _atss("dyhead_atss_swin_small", "swin_small_patch4_window7_224")


@register
def dyhead_atss_swin_base() -> DetectorConfig:
    """DyHead ATSS on Swin-B with windows of 12, six blocks of 256 channels."""
    return _atss("dyhead_atss_swin_base", "swin_base_patch4_window12_384")


@register
def dyhead_atss_swin_large() -> DetectorConfig:
    """DyHead ATSS on Swin-L with windows of 12 (mmdetection `atss_swin-l-p4-w12_fpn_dyhead_ms-2x_coco`)."""
    return _atss("dyhead_atss_swin_large", "swin_large_patch4_window12_384")


@dataclass(frozen=True)
class Checkpoint:
    """One entry of `weights/catalog.toml`."""

    name: str  # architecture.tag
    folder: str  # beside the catalogue
    sha256: str  # of model.safetensors
    licence: str
    dataset: str
    metrics: dict[str, float]


def weights_folder() -> Path:
    """The catalogue's folder: inside the installed package, or at the top of a source checkout."""
    package = Path(__file__).parent
    installed = package / "weights"
    return installed if installed.is_dir() else package.parent / "weights"


@cache
def checkpoints() -> dict[str, Checkpoint]:
    """Every checkpoint of the catalogue by name."""
    catalog = tomllib.loads((weights_folder() / "catalog.toml").read_text(encoding="utf-8"))
    return {entry["name"]: Checkpoint(**entry) for entry in catalog["checkpoint"]}


def sample_image() -> Path:
    """The picture that `dyzoo predict` shows itself on when none is named."""
    return weights_folder() / "sample.jpg"


def list_models(pattern: str = "*", pretrained: bool = False) -> list[str]:
    """Names matching a wildcard pattern, sorted.

    Args:
        pattern: shell wildcards, e.g. "*swin*"; checkpoints are matched with their tag.
        pretrained: list checkpoints (`architecture.tag`) instead of architectures.
    """
    names: Iterable[str] = checkpoints() if pretrained else ARCHITECTURES
    return sorted(name for name in names if fnmatchcase(name, pattern))


def model_config(name: str) -> DetectorConfig:
    """The configuration that `name` stands for, a tag being ignored.

    Raises:
        UnknownModelError: no architecture has this name; the message suggests the nearest ones.
    """
    architecture = name.split(".")[0]
    if architecture not in ARCHITECTURES:
        raise _unknown(name, ARCHITECTURES)
    return ARCHITECTURES[architecture]()


def create_model(
    name: str,
    *,
    pretrained: bool = False,
    labels: Sequence[str] | None = None,
    backbone: str | None = None,
    pretrained_backbone: bool = False,
) -> Detector:
    """Build a detector by name, in evaluation mode.

    Args:
        name: an architecture, or with `pretrained` a checkpoint `architecture.tag` (the tag may be left out where
            there is only one).
        pretrained: load the checkpoint's weights; its labels come with it.
        labels: class names of a new detector, default COCO's 80.
        backbone: any other timm backbone with maps of strides 8, 16 and 32.
        pretrained_backbone: start from timm's published backbone weights.

    Raises:
        UnknownModelError: no such architecture, checkpoint or backbone; the message suggests the nearest names.
        CheckpointError: the weights are missing or not those of the catalogue.
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
    return Detector(config, pretrained_backbone).eval()


def load_model(name_or_folder: str | Path, device: str | torch.device = "cpu") -> Detector:
    """A trained detector from a checkpoint name, a `save_pretrained` folder or the folder of a training run.

    Raises:
        UnknownModelError: it is neither; the message suggests the nearest names.
        CheckpointError: its files are missing or damaged.
    """
    folder = Path(name_or_folder)
    if folder.is_dir():
        best = folder / BEST_NAME
        return Detector.from_pretrained(best if best.is_dir() else folder, device)
    return create_model(str(name_or_folder), pretrained=True).to(device)


def _load_checkpoint(name: str) -> Detector:
    known = checkpoints()
    matches = [name] if name in known else [key for key in known if key.split(".")[0] == name]
    if not matches:
        if name in ARCHITECTURES:
            raise UnknownModelError(
                f"{name} has no published weights here, only {', '.join(known)}: train it, or name the folder of a run"
            )
        raise _unknown(name, [*known, *ARCHITECTURES], "or a folder with config.json and model.safetensors")
    checkpoint = known[matches[0]]
    folder = weights_folder() / checkpoint.folder
    weights_path = folder / WEIGHTS_NAME
    if weights_path.is_file() and hashlib.sha256(weights_path.read_bytes()).hexdigest() != checkpoint.sha256:
        raise CheckpointError(f"{weights_path} is not the file of the catalogue (sha256 differs): install dyzoo again")
    return Detector.from_pretrained(folder)


def _unknown(name: str, known: Iterable[str], otherwise: str = "") -> UnknownModelError:
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or sorted(names)[:3]
    return UnknownModelError(
        " ".join(filter(None, [f"no model is called {name!r}: did you mean {', '.join(near)}", otherwise])) + "?"
    )
