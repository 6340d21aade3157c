"""GLIP-T (A), its classes made of text, gives mmdetection's answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import dyzoo
from dyzoo.checkpoints import ConvertedCheckpoint, convert
from dyzoo.checkpoints.glip import KEY_RULES, LANGUAGE
from dyzoo.config.labels import COCO_LABELS
from dyzoo.errors import CheckpointError, LabelError
from dyzoo.grounding import LanguageModel, bert_tokenizer, write_captions
from dyzoo.model.detector import Detector
from dyzoo.model.preprocess import batch_images
from tests.golden.agreement import deviation
from tests.golden.glip_golden import (
    CASE,
    MAP_TOLERANCE,
    NAMES,
    PIXELS,
    Golden,
    Weights,
    assert_detections,
    assert_same,
    decoded,
    of_names,
    read_golden,
)


@pytest.fixture(scope="module")
def golden(shared_folder: Path) -> Golden:
    return read_golden(shared_folder / "golden")


@pytest.fixture(scope="module")
def conversion(golden: Golden) -> ConvertedCheckpoint:
    return convert({"state_dict": golden.weights}, CASE, NAMES)


@pytest.fixture(scope="module")
def raw(conversion: ConvertedCheckpoint, golden: Golden) -> dict[str, list[Tensor]]:
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


def test_every_key_is_read_or_a_constant(golden: Golden, conversion: ConvertedCheckpoint) -> None:
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
    with torch.device("meta"):
        bert = LanguageModel().bert
    places = {
        name: next(keys for rule in LANGUAGE if (keys := rule.keys(f"language.bert.{name}")))
        for name in bert.state_dict()
    }
    bert.load_state_dict({name: golden.weights[key] for name, (key,) in places.items()}, assign=True)
    with torch.no_grad():
        found = bert(golden.outputs["text.input_ids"][None])
    assert (found - golden.outputs["text.embedded"]).abs().max() < 1e-5


def test_token_logits_of_the_golden_features(golden: Golden, conversion: ConvertedCheckpoint) -> None:
    features = [golden.outputs[f"dyhead.p{level}"] for level in range(3, 8)]
    with torch.no_grad():
        raw = conversion.detector.head(features)
    for level in range(5):
        assert deviation(raw["cls"][level], golden.outputs[f"head.cls.{level}"][:, of_names(golden)]) < MAP_TOLERANCE
        for kind in ("box", "centerness"):
            assert deviation(raw[kind][level], golden.outputs[f"head.{kind}.{level}"]) < MAP_TOLERANCE


def test_raw_predictions_of_the_golden_image(golden: Golden, raw: dict[str, list[Tensor]]) -> None:
    for level in range(5):
        assert (
            deviation(raw["cls"][level], golden.outputs[f"head.cls.{level}"][:, of_names(golden)]) < 10 * MAP_TOLERANCE
        )
        for kind in ("box", "centerness"):
            assert deviation(raw[kind][level], golden.outputs[f"head.{kind}.{level}"]) < 10 * MAP_TOLERANCE


def test_detections(golden: Golden, conversion: ConvertedCheckpoint, raw: dict[str, list[Tensor]]) -> None:
    assert_detections(golden, conversion.detector, raw)


def test_the_border_convention_would_be_noticed(
    golden: Golden, conversion: ConvertedCheckpoint, raw: dict[str, list[Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion.detector.head, "inclusive_corners", False)
    with pytest.raises(AssertionError):
        assert_same(decoded(conversion.detector, raw, golden, max_detections=1000), golden.detections("all"))


def test_the_detectors_own_door_and_saved_and_loaded(
    golden: Golden, conversion: ConvertedCheckpoint, tmp_path: Path
) -> None:
    detector, picture = conversion.detector, golden.outputs["image"]
    with torch.no_grad():
        first = detector([picture])[0]
    assert_same(first, golden.detections("dets"))
    detector.save_pretrained(tmp_path)
    again = Detector.from_pretrained(tmp_path)
    assert again.config == detector.config
    with torch.no_grad():
        second = again([picture])[0]
    assert all(torch.equal(first[key], second[key]) for key in first)
    found = again.predict(picture.permute(1, 2, 0).numpy(), threshold=0.0, size="native")[0]
    assert torch.equal(found.scores, first["scores"])
    assert (found.boxes_xyxy - first["boxes"]).abs().max() < PIXELS


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_stored_in_half_the_bytes(
    golden: Golden, conversion: ConvertedCheckpoint, tmp_path: Path, dtype: torch.dtype
) -> None:
    conversion.detector.save_pretrained(tmp_path, dtype)
    with torch.no_grad():
        found = Detector.from_pretrained(tmp_path)([golden.outputs["image"]])[0]
    assert (found["scores"][:10] - golden.outputs["dets.scores"][:10]).abs().max() < 0.05


def test_a_checkpoint_in_half_precision_of_parallel_training(golden: Golden, conversion: ConvertedCheckpoint) -> None:
    halves = {f"module.{key}": value.half() for key, value in golden.weights.items()}
    head = dyzoo.convert_checkpoint(halves, CASE, NAMES).head
    assert head.cls.weight.dtype == torch.float32
    assert deviation(head.cls.weight, conversion.detector.head.cls.weight) < 0.01


def test_a_training_step(golden: Golden) -> None:
    model = dyzoo.convert_checkpoint(golden.weights, CASE, NAMES).train()
    target = {"boxes": golden.outputs["dets.boxes"][:4], "labels": golden.outputs["dets.labels"][:4]}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
    totals = []
    for _ in range(2):
        torch.manual_seed(0)  # stochastic depth
        losses = model([golden.outputs["image"][:, :128, :160]], [target_inside(target, 128, 160)])
        loss = sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals.append(loss.item())
    assert totals[1] < totals[0]


def target_inside(target: Weights, height: int, width: int) -> Weights:
    """One object of each of the target's labels, inside of a picture of that size."""
    boxes = torch.tensor([[8.0, 8.0, width / 2, height / 2], [width / 3, height / 4, width - 4.0, height - 4.0]])
    return {"boxes": boxes, "labels": target["labels"][:2]}


def test_labels_that_nobody_gives_are_the_checkpoints_or_cocos(golden: Golden) -> None:
    assert dyzoo.convert_checkpoint(golden.weights, CASE).labels == COCO_LABELS
    named = {"state_dict": golden.weights, "meta": {"dataset_meta": {"classes": ("cat", "hot dog")}}}
    detector = dyzoo.convert_checkpoint(named, CASE)
    assert detector.labels == ("cat", "hot dog")
    assert detector.config.head.tokens_per_class == (1, 2)


def test_names_of_several_captions_are_read_caption_by_caption(golden: Golden) -> None:
    names = [f"{color} {label}" for color in ("red", "white") for label in COCO_LABELS]
    captions = write_captions(names, bert_tokenizer())
    assert len(captions) > 1
    together = dyzoo.convert_checkpoint(golden.weights, CASE, names)
    first = len(captions[0].spans)
    alone = dyzoo.convert_checkpoint(golden.weights, CASE, names[:first])
    count = sum(alone.config.head.tokens_per_class)
    assert torch.equal(together.head.cls.weight[:count], alone.head.cls.weight)
    assert torch.equal(together.head.cls.bias[:count], alone.head.cls.bias)
    rest = dyzoo.convert_checkpoint(golden.weights, CASE, names[first : first + len(captions[1].spans)])
    assert torch.equal(together.head.cls.weight[count : count + rest.head.cls.out_channels], rest.head.cls.weight)


def test_a_missing_an_unknown_and_a_misshapen_key_are_named(golden: Golden) -> None:
    for key in (
        "bbox_head.head.log_scale",
        "language_model.language_backbone.body.model.encoder.layer.3.attention.self.key.bias",
        "bbox_head.head.dyhead_tower.2.dyconvs.1.bn.weight",
        "neck.fpn_convs.4.conv.bias",
    ):
        without = {name: value for name, value in golden.weights.items() if name != key}
        with pytest.raises(CheckpointError, match=f"lacks '{key}'"):
            dyzoo.convert_checkpoint(without, CASE, NAMES)
        with pytest.raises(CheckpointError, match=f"has the unknown '{key}x'"):
            dyzoo.convert_checkpoint({**golden.weights, f"{key}x": torch.zeros(1)}, CASE, NAMES)
        with pytest.raises(CheckpointError, match=f"'{key}' is .*, expected "):
            dyzoo.convert_checkpoint({**golden.weights, key: torch.zeros(3, 3)}, CASE, NAMES)
    with pytest.raises(CheckpointError, match=r"is it of mmdet_glip_t_a\?"):
        dyzoo.convert_checkpoint(golden.weights, "mmdet_atss_swin_l")
    with pytest.raises(LabelError, match="class name 2, '\\(none\\)', has no word"):
        dyzoo.convert_checkpoint(golden.weights, CASE, ["cat", "(none)"])
    assert set(KEY_RULES) == {CASE}
