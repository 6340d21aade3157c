"""GLIP-T (A), its classes made of text, gives mmdetection's answers."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import dyzoo
from dyzoo.checkpoints import Conversion, convert
from dyzoo.checkpoints.glip import LAYOUTS
from dyzoo.config.labels import COCO_LABELS
from dyzoo.errors import CheckpointError, LabelError
from dyzoo.grounding import LanguageModel, bert_tokenizer, write_captions
from dyzoo.model.detector import Detector
from dyzoo.model.preprocess import batch_images, map_to_image
from tests.golden import recipe

CASE = "mmdet_glip_t_a"
NAMES = ["traffic light", "red blood cell", "person"]
MAP_TOLERANCE = 1e-5  # of a level's largest value
PIXELS = 1e-3
Weights = dict[str, Tensor]


@dataclass
class Golden:
    """What mmdetection was given and what it answered."""

    manifest: dict[str, Any]
    weights: Weights
    outputs: Weights

    def detections(self, name: str) -> Weights:
        return {key: self.outputs[f"{name}.{key}"] for key in ("boxes", "scores", "labels")}


@pytest.fixture(scope="module")
def golden(shared_folder: Path) -> Golden:
    folder = shared_folder / "golden"
    if not (folder / f"{CASE}.json").is_file():
        pytest.skip(f"no golden case {CASE} in {folder}")
    manifest = json.loads((folder / f"{CASE}.json").read_text())
    weights = {
        key: torch.from_numpy(recipe.tensor(key, shape)) if kind == "param" else torch.full(shape, -1)
        for key, (shape, kind) in manifest["checkpoint"].items()
    }
    return Golden(manifest, weights, load_file(folder / f"{CASE}.safetensors") | load_file(folder / f"{CASE}_fine.safetensors"))


@pytest.fixture(scope="module")
def conversion(golden: Golden) -> Conversion:
    return convert({"state_dict": golden.weights}, CASE, NAMES)


@pytest.fixture(scope="module")
def raw(conversion: Conversion, golden: Golden) -> dict[str, list[Tensor]]:
    """Raw predictions of the whole detector for the golden image."""
    model = conversion.detector
    with torch.no_grad():
        batch, _ = batch_images([golden.outputs["image"]], model.config.preprocess, model.device)
        return model.forward_head(model.forward_features(batch))


def test_the_caption_is_mmdetections(golden: Golden) -> None:
    text = golden.manifest["text"]
    assert text["names"] == NAMES
    (caption,) = write_captions(NAMES, bert_tokenizer())
    assert list(caption.tokens) == golden.outputs["text.input_ids"].tolist()
    assert [list(range(*span)) for span in caption.spans] == text["class_tokens"]
    (caption,) = write_captions(COCO_LABELS, bert_tokenizer())
    assert len(caption.tokens) == 194


def test_every_key_is_read_or_a_constant(golden: Golden, conversion: Conversion) -> None:
    constants = {key for key, (_, kind) in golden.manifest["checkpoint"].items() if kind == "buffer"}
    assert set(conversion.ignored) == constants
    assert conversion.num_keys == len(golden.weights)
    config = conversion.detector.config
    foreign = golden.manifest["preprocessing"]
    assert (config.preprocess.channel_order, config.preprocess.size_divisor) == ("BGR", foreign["size_divisibility"])
    assert [list(config.preprocess.mean), list(config.preprocess.std)] == [foreign["pixel_mean"], foreign["pixel_std"]]
    assert conversion.detector.labels == tuple(NAMES)
    assert config.head.tokens_per_class == (2, 3, 1)


def test_the_language_models_last_layer(golden: Golden) -> None:
    start = "language_model.language_backbone.body.model."
    with torch.device("meta"):
        bert = LanguageModel().bert
    bert.load_state_dict({name: golden.weights[start + name] for name in bert.state_dict()}, assign=True)
    with torch.no_grad():
        found = bert(golden.outputs["text.input_ids"][None])
    assert (found - golden.outputs["text.embedded"]).abs().max() < 1e-5


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


def of_names(golden: Golden) -> list[int]:
    return sum(golden.manifest["text"]["class_tokens"], [])


def test_token_logits_of_the_golden_features(golden: Golden, conversion: Conversion) -> None:
    features = [golden.outputs[f"dyhead.p{level}"] for level in range(3, 8)]
    with torch.no_grad():
        raw = conversion.detector.head(features)
    for level in range(5):
        assert relative(raw["cls"][level], golden.outputs[f"head.cls.{level}"][:, of_names(golden)]) < MAP_TOLERANCE
        for kind in ("box", "centerness"):
            assert relative(raw[kind][level], golden.outputs[f"head.{kind}.{level}"]) < MAP_TOLERANCE


def test_raw_predictions_of_the_golden_image(golden: Golden, raw: dict[str, list[Tensor]]) -> None:
    for level in range(5):
        assert relative(raw["cls"][level], golden.outputs[f"head.cls.{level}"][:, of_names(golden)]) < 10 * MAP_TOLERANCE
        for kind in ("box", "centerness"):
            assert relative(raw[kind][level], golden.outputs[f"head.{kind}.{level}"]) < 10 * MAP_TOLERANCE
