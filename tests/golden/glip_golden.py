"""The golden case of GLIP-T (A), which is among the shared data alone, and what a detector has to answer to it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dyzoo.model.detector import Detector
from dyzoo.model.preprocess import map_to_image
from tests.golden import recipe

CASE = "mmdet_glip_t_a"
NAMES = ["traffic light", "red blood cell", "person"]
MAP_TOLERANCE = 1e-5  # of a level's largest value
PIXELS = 1e-3
Weights = dict[str, Tensor]


@dataclass
class Golden:
    """Inputs and answers of mmdetection."""

    manifest: dict[str, Any]
    weights: Weights
    outputs: Weights

    def detections(self, name: str) -> Weights:
        return {key: self.outputs[f"{name}.{key}"] for key in ("boxes", "scores", "labels")}


def read_golden(folder: Path) -> Golden:
    """The case; skips the test where it is absent."""
    if not (folder / f"{CASE}.json").is_file():
        pytest.skip(f"no golden case {CASE} in {folder}")
    manifest = json.loads((folder / f"{CASE}.json").read_text())
    weights = {
        key: torch.from_numpy(recipe.tensor(key, shape)) if kind == "param" else torch.full(shape, -1)
        for key, (shape, kind) in manifest["checkpoint"].items()
    }
    return Golden(
        manifest, weights, load_file(folder / f"{CASE}.safetensors") | load_file(folder / f"{CASE}_fine.safetensors")
    )


def of_names(golden: Golden) -> list[int]:
    return [token for tokens in golden.manifest["text"]["class_tokens"] for token in tokens]


def assert_same(found: Weights, expected: Weights, score_tolerance: float = 1e-4) -> None:
    """The same boxes; those of scores that differ by rounding alone may have changed places."""
    assert len(found["scores"]) == len(expected["scores"])
    other_class = found["labels"][:, None] != expected["labels"]
    distance, nearest = (torch.cdist(found["boxes"], expected["boxes"], p=torch.inf) + 1e6 * other_class).min(dim=1)
    assert len(nearest.unique()) == len(nearest)
    assert distance.max() < PIXELS
    assert (found["scores"] - expected["scores"][nearest]).abs().max() < score_tolerance


def decoded(detector: Detector, raw: dict[str, list[Tensor]], golden: Golden, **settings: Any) -> Weights:
    head = detector.head
    before, head.config = head.config, replace(head.config, **settings)
    try:
        return head.decode(raw, [tuple(golden.outputs["image"].shape[1:])])[0]
    finally:
        head.config = before


def assert_detections(golden: Golden, detector: Detector, raw: dict[str, list[Tensor]]) -> None:
    """The final answers, those without the limit of 100, and those of an image that was enlarged.

    Boxes that mmdetection lets reach outside of the picture, by less than a pixel, end at its edge here.
    """
    assert_same(decoded(detector, raw, golden), golden.detections("dets"))
    found = decoded(detector, raw, golden, max_detections=1000)
    assert len(found["scores"]) == 493
    assert_same(found, golden.detections("all"))
    found, expected = decoded(detector, raw, golden), golden.detections("dets_rescaled")
    size = tuple(golden.outputs["image"].shape[1:])
    original = tuple(side / golden.manifest["dets_rescaled"]["scale_factor"] for side in size)
    limit = torch.tensor([original[1], original[0]] * 2)
    assert (expected["boxes"] - limit).max() < 1
    found["boxes"] = map_to_image(found["boxes"], size, original, detector.head.inclusive_corners)
    assert_same(found, {**expected, "boxes": expected["boxes"].minimum(limit)})
