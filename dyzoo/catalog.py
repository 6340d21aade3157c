"""The checkpoints (`architecture.tag`) of `weights/catalog.toml`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


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
