"""The golden cases: foreign state dicts, made again from their manifests, and what foreign implementations answer."""

from __future__ import annotations

import json
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from dyzoo.checkpoints import ConvertedCheckpoint, convert, convert_checkpoint
from dyzoo.model.detector import Detector
from tests.golden import recipe

FOLDER = Path(__file__).parent
CASES = tuple(sorted(path.stem for path in FOLDER.glob("*.json")))
"""Every case has a manifest; those with a file of outputs too are `*.safetensors`."""


def golden_outputs(case: str) -> dict[str, Tensor]:
    """Input, target and answers of the foreign implementation."""
    return load_file(FOLDER / f"{case}.safetensors")


def foreign_shapes(case: str) -> dict[str, list[int]]:
    """Every key of the foreign checkpoint whose value is learnt or counted, and the shape of its tensor."""
    return {key: shape for key, (shape, _) in _manifest(case).items() if key not in constants(case)}


def constants(case: str) -> set[str]:
    """Keys whose values the foreign code derives from its configuration.

    The manifests were written by a rule that took every key with `anchor` in it for one, but Faster R-CNN's
    `anchor_deltas` is a layer.
    """
    return {key for key, (_, kind) in _manifest(case).items() if kind == "buffer" and "anchor_deltas" not in key}


def foreign_preprocessing(case: str) -> dict[str, Any]:
    """The foreign input format."""
    return json.loads((FOLDER / f"{case}.json").read_text())["preprocessing"]


def foreign_weights(case: str) -> dict[str, Tensor]:
    """The state dict of the foreign detector; constants are wrong on purpose."""
    weights = {key: torch.from_numpy(recipe.tensor(key, shape)) for key, shape in foreign_shapes(case).items()}
    return weights | {key: torch.full(_manifest(case)[key][0], -1) for key in constants(case)}


def golden_detector(case: str) -> Detector:
    """A `Detector` with the weights of the case, in evaluation mode."""
    return convert_checkpoint({"model": foreign_weights(case)}, case)


@lru_cache(maxsize=1)
def converted(case: str) -> tuple[dict[str, Tensor], ConvertedCheckpoint]:
    """The state dict and its conversion, neither to be changed: the last case asked for is kept."""
    weights = foreign_weights(case)
    return weights, convert(weights, case)


@cache
def _manifest(case: str) -> dict[str, tuple[list[int], str]]:
    return json.loads((FOLDER / f"{case}.json").read_text())["checkpoint"]
