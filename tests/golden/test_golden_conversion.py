"""Every key of the foreign checkpoints has its place in a detector, and no other key is let through."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import dyzoo
from dyzoo.checkpoints import ConvertedCheckpoint, convert, glip
from dyzoo.checkpoints.conversion import KEY_RULES
from dyzoo.checkpoints.mmdet import class_names
from dyzoo.checkpoints.rules import KeyRules
from dyzoo.config.architectures import ARCHITECTURES
from dyzoo.config.labels import COCO_LABELS
from dyzoo.errors import CheckpointError, UnknownModelError
from dyzoo.model.detector import Detector
from tests.golden.foreign import (
    CASES,
    constants,
    converted,
    foreign_preprocessing,
    foreign_shapes,
    foreign_weights,
    golden_detector,
)

SMALL = "official_retinanet_r50"  # for what is the same for all of them
MILLION_PARAMETERS = {
    "mmdet_atss_r50": 39.07,
    "mmdet_atss_r50_caffe": 38.90,
    "mmdet_atss_swin_l": 210.36,
    "official_atss_r50": 38.85,
    "official_atss_swin_t": 42.34,
    "official_faster_rcnn_r50": 53.20,
    "official_retinanet_r50": 45.29,
}


@dataclass
class Case:
    name: str
    foreign: dict[str, Tensor]
    conversion: ConvertedCheckpoint

    @property
    def detector(self) -> Detector:
        return self.conversion.detector

    @property
    def rules(self) -> KeyRules:
        return KEY_RULES[self.name]


# the large one last, so that the tests of Swin find it converted
@pytest.fixture(scope="module", params=sorted(CASES, key=lambda name: name == "mmdet_atss_swin_l"))
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param, *converted(request.param))


def test_every_case_has_an_architecture_of_its_name() -> None:
    assert set(CASES) | set(glip.KEY_RULES) == set(KEY_RULES)
    assert set(CASES) == set(MILLION_PARAMETERS)
    assert set(CASES) <= set(ARCHITECTURES)


def test_every_key_is_read_or_a_constant(case: Case) -> None:
    counters = {key for key in case.foreign if key.endswith("num_batches_tracked")}
    assert set(case.conversion.ignored) == constants(case.name) | counters
    assert case.conversion.num_keys == len(case.foreign)
    assert not case.detector.training
    assert case.detector.labels == COCO_LABELS


def test_images_are_prepared_as_the_foreign_code_does(case: Case) -> None:
    foreign, own = foreign_preprocessing(case.name), case.detector.config.preprocess
    assert own.channel_order == foreign["input_format"]
    assert list(own.mean) == foreign["pixel_mean"]
    assert list(own.std) == foreign["pixel_std"]
    assert own.size_divisor == foreign["size_divisibility"]


def test_parameter_count_is_the_foreign_models(case: Case) -> None:
    count = sum(parameter.numel() for parameter in case.detector.parameters())
    assert round(count / 1e6, 2) == MILLION_PARAMETERS[case.name]


def test_every_value_comes_once(case: Case) -> None:
    """Sums over all values and over their squares are those of the checkpoint, and so is their number."""
    left_alone = ("num_batches_tracked", "loss_normalizer")
    own = [value for name, value in case.detector.state_dict().items() if not name.endswith(left_alone)]
    foreign = [case.foreign[key] for key in foreign_shapes(case.name) if not key.endswith("num_batches_tracked")]
    assert sum(value.numel() for value in own) == sum(value.numel() for value in foreign)
    for measure in (torch.sum, lambda tensor, dtype: torch.linalg.vector_norm(tensor, dtype=dtype) ** 2):
        found, expected = (sum(measure(value, dtype=torch.float64).item() for value in part) for part in (own, foreign))
        assert found == pytest.approx(expected, rel=1e-9)


def test_a_missing_an_unknown_and_a_misshapen_key_are_named(case: Case) -> None:
    own, keys = case.detector.state_dict(), list(foreign_shapes(case.name))
    keys = [key for key in keys if not key.endswith("num_batches_tracked")]
    for key in keys[:: len(keys) // 3]:
        without = {name: value for name, value in case.foreign.items() if name != key}
        with pytest.raises(CheckpointError, match=r"^it lacks") as caught:
            case.rules.translate(without, own, "it")
        assert repr(key) in str(caught.value)
        with pytest.raises(CheckpointError, match=f"^it lacks {key!r} and has the unknown '{key}x': "):
            case.rules.translate({**without, f"{key}x": case.foreign[key]}, own, "it")
        value = case.foreign[key]
        for other in (value[None], value.flatten()[:-1], value.double().new_zeros(*value.shape, 2)):
            with pytest.raises(CheckpointError, match=f"^it: {key!r} is .*, expected ") as caught:
                case.rules.translate({**case.foreign, key: other}, own, "it")
            assert str(tuple(other.shape)) in str(caught.value)
        with pytest.raises(CheckpointError, match=f"^it: {key!r} has infinite values or NaN"):
            case.rules.translate({**case.foreign, key: torch.full_like(value, torch.nan)}, own, "it")
    with pytest.raises(CheckpointError, match=r"lacks '.*' and \d+ more and has the unknown 'head.extra.weight': "):
        case.rules.translate({"head.extra.weight": torch.zeros(1)}, own, "it")


def test_finds_something_in_a_picture(case: Case) -> None:
    size = (128, 160) if case.name == "mmdet_atss_swin_l" else (256, 320)
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    detections = case.detector.predict(picture, threshold=0.0, size="native")[0]
    assert detections.image_size == size
    assert 0 < len(detections) <= 100
    assert bool(detections.boxes_xyxy.isfinite().all())


@pytest.mark.parametrize("name", ["mmdet_atss_r50_caffe", "official_faster_rcnn_r50", "official_atss_swin_t"])
def test_saved_and_loaded_it_gives_the_same(name: str, tmp_path: Path) -> None:
    detector = golden_detector(name)
    picture = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    detector.save_pretrained(tmp_path)
    again = Detector.from_pretrained(tmp_path)
    assert again.config == detector.config
    with torch.no_grad():
        first, second = (model([picture])[0] for model in (detector, again))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("case", ["official_retinanet_r50"], indirect=True)
def test_retinanets_towers_are_not_mixed_up(case: Case) -> None:
    """No other head has layers of the same shape and no golden output."""
    own = case.detector.state_dict()
    for kind, subnet in (("cls", "cls_subnet"), ("box", "bbox_subnet")):
        for layer in (0, 2, 4, 6):
            assert torch.equal(own[f"head.{kind}_tower.{layer}.weight"], case.foreign[f"head.{subnet}.{layer}.weight"])


FINE_TUNED = {  # outputs of the classification layer, and others that go with the classes, for three of them
    "official_atss_swin_t": {"head.cls_logits": 3},
    "official_retinanet_r50": {"head.cls_score": 27},
    "official_faster_rcnn_r50": {"roi_heads.box_predictor.cls_score": 4, "roi_heads.box_predictor.bbox_pred": 12},
}


@pytest.mark.parametrize("name", FINE_TUNED)
def test_a_fine_tuned_checkpoint_has_its_own_number_of_classes(name: str) -> None:
    foreign = foreign_weights(name)
    for layer, outputs in FINE_TUNED[name].items():
        for kind in ("weight", "bias"):
            foreign[f"{layer}.{kind}"] = foreign[f"{layer}.{kind}"][:outputs]
    with pytest.raises(CheckpointError, match=r"has 3 classes without names, .*: give labels"):
        dyzoo.convert_checkpoint(foreign, name)
    with pytest.raises(CheckpointError, match="has 3 classes, but 2 labels were given"):
        dyzoo.convert_checkpoint(foreign, name, ["cat", "dog"])
    detector = dyzoo.convert_checkpoint(foreign, name, labels=["cat", "dog", "cow"])
    assert detector.labels == ("cat", "dog", "cow")
    found = detector.predict(np.zeros((64, 64, 3), np.uint8), threshold=0.0, size="native")[0]
    assert set(found.labels.tolist()) <= {0, 1, 2}


@pytest.mark.parametrize("outputs", [0, 13])
def test_an_impossible_number_of_outputs(outputs: int) -> None:
    foreign = foreign_weights(SMALL)
    foreign["head.cls_score.bias"] = torch.zeros(outputs)
    with pytest.raises(CheckpointError, match=rf"'head.cls_score.bias' is \({outputs},\), expected .* 9 outputs"):
        dyzoo.convert_checkpoint(foreign, SMALL)


def test_mmdetection_names_its_classes_itself() -> None:
    foreign = foreign_weights("mmdet_atss_r50")
    for kind in ("weight", "bias"):
        foreign[f"bbox_head.atss_cls.{kind}"] = foreign[f"bbox_head.atss_cls.{kind}"][:2]
    checkpoint = {"state_dict": foreign, "meta": {"epoch": 12, "dataset_meta": {"classes": ("cat", "dog")}}}
    assert dyzoo.convert_checkpoint(checkpoint, "mmdet_atss_r50").labels == ("cat", "dog")
    assert class_names({"meta": {"CLASSES": ["a", "b"], "PALETTE": []}}) == ("a", "b")
    for other in ({}, {"meta": None}, {"meta": {"CLASSES": None}}, {"meta": {"dataset_meta": {"classes": [1]}}}):
        assert class_names(other) is None


def test_of_parallel_training_in_half_precision_as_arrays() -> None:
    foreign = foreign_weights(SMALL)
    expected = golden_detector(SMALL).state_dict()
    halves = {f"module.{key}": value.half().numpy() for key, value in foreign.items()}
    found = dyzoo.convert_checkpoint({"model": halves, "iteration": 89999}, SMALL).state_dict()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value.half().float()), name


def test_constants_that_older_code_saved() -> None:
    older = {"pixel_mean": torch.zeros(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
    older |= {f"anchor_generator.cell_anchors.{level}": torch.zeros(9, 4) for level in range(5)}
    conversion = convert({**foreign_weights(SMALL), **older}, SMALL)
    assert set(conversion.ignored) == set(older)


def test_an_unknown_source_suggests_the_nearest() -> None:
    with pytest.raises(UnknownModelError, match="official_atss_r50"):
        dyzoo.convert_checkpoint({}, "oficial_atss_r5O")
    with pytest.raises(UnknownModelError, match="no checkpoints of 'dyhead_atss_resnet10t' can be converted"):
        dyzoo.convert_checkpoint({}, "dyhead_atss_resnet10t")


def test_another_code_bases_checkpoint_is_recognised() -> None:
    with pytest.raises(CheckpointError, match=r"is it of official_retinanet_r50\?"):
        dyzoo.convert_checkpoint(foreign_weights(SMALL), "mmdet_atss_r50")


def test_numpy_arrays_and_scalars_are_weights_too() -> None:
    foreign = foreign_weights("mmdet_atss_r50")
    arrays = {key: np.float32(value.item()) if value.ndim == 0 else value.numpy() for key, value in foreign.items()}
    assert np.isscalar(arrays["bbox_head.scales.0.scale"])
    found = dyzoo.convert_checkpoint(arrays, "mmdet_atss_r50").state_dict()
    expected = dyzoo.convert_checkpoint(foreign, "mmdet_atss_r50").state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
