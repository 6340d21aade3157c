import json
from collections.abc import Iterator
from dataclasses import is_dataclass, replace
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
from dyhead_kernels import OffsetMode

from dyzoo.config import DetectorConfig, DyHeadConfig
from dyzoo.config.architectures import ARCHITECTURES
from dyzoo.config.values import Range
from dyzoo.errors import CheckpointError


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_architecture_survives_its_json(name: str) -> None:
    config = replace(ARCHITECTURES[name](), labels=("cat", "dög"))
    assert DetectorConfig.from_json(config.to_json()) == config
    assert config.architecture == name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 99}, "version 99.*update dyzoo"),
        ({"colour": "red"}, "unknown setting 'colour'"),
        ({"labels": "cat"}, "labels is 'cat'"),
        ({"labels": [1]}, "labels is 1, expected str"),
        ({"fpn": {"channels": "many"}}, "channels is 'many', expected int"),
        ({"fpn": 3}, "fpn is 3, expected an object"),
        ({"dyhead": {"offset_mode": "sideways"}}, "offset_mode is 'sideways', expected one of"),
        ({"head": {"type": "atss", "anchor_scale": True}}, "anchor_scale is True, expected float"),
        ({"head": {"type": "yolo"}}, "head.type is 'yolo', expected one of atss, retinanet"),
        ({"head": {}}, "head.type is None"),
        ({"head": 3}, "head is 3, expected an object"),
        ({"preprocess": {"mean": [1.0, 2.0]}}, "mean is"),
        ({"fpn": {"finest_stride": 8.0}}, "fpn.finest_stride is 8.0, expected one of 4, 8"),
        ({"preprocess": {"std": [1, 1, 0]}}, "preprocess.std is 0, expected 0.001 to 10000"),
        ({"preprocess": {"mean": [10**400, 0, 0]}}, r"preprocess.mean is 10+\.\.\.0+, expected -10000 to 10000"),
        ({"head": {"type": "atss", "nms_threshold": float("inf")}}, "head.nms_threshold is inf, expected 0 to 1"),
        ({"head": {"type": "atss", "candidates_per_level": 10**6}}, "candidates_per_level is 1000000, expected 1 to"),
        ({"head": {"type": "retinanet", "aspect_ratios": [1.0] * 99}}, "aspect_ratios has 99 items, expected 1 to 16"),
        ({"backbone": {"name": "x" * 201}}, "backbone.name has 201 characters, expected 0 to 200"),
        ({"version": [1] * 9999}, r"version \[1, 1, 1, 1, 1, 1, \.\.\.\], this dyzoo reads"),
    ],
)
def test_a_wrong_setting_is_named(change: dict[str, object], message: str) -> None:
    values = {**json.loads(DetectorConfig(labels=("a",)).to_json()), **change}
    with pytest.raises(CheckpointError, match=message):
        DetectorConfig.from_json(json.dumps(values))


@pytest.mark.parametrize(("frozen_norm", "norm"), [(False, "batch"), (True, "frozen")])
def test_version_1_is_still_read(frozen_norm: bool, norm: str) -> None:
    values = json.loads(DetectorConfig(labels=("a",)).to_json())
    del values["backbone"]["norm"]
    values["backbone"]["frozen_norm"] = frozen_norm
    assert DetectorConfig.from_json(json.dumps({**values, "version": 1})).backbone.norm == norm


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_text_that_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        DetectorConfig.from_json(text)


def hints_of(hint: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The type of every value that a configuration holds, by its name."""
    if is_dataclass(hint):
        for field, inner in get_type_hints(hint, include_extras=True).items():
            yield from hints_of(inner, f"{name}.{field}")
    elif get_origin(hint) in (tuple, type(int | str)):
        for inner in get_args(hint):
            yield from hints_of(inner, name)
    elif get_origin(hint) is Annotated:
        assert isinstance(hint.__metadata__[0], Range)
        if get_origin(hint.__origin__) is tuple:
            yield from hints_of(hint.__origin__, name)
    elif hint is not Ellipsis:
        yield name, hint


def test_every_number_and_text_has_a_range() -> None:
    """A stranger's file can ask for no more than the ranges allow, also in fields that come later."""
    assert {name for name, hint in hints_of(DetectorConfig, "config") if hint in (int, float, str)} == set()
    assert len(list(hints_of(DetectorConfig, "config"))) > 10


def test_offset_modes_are_those_of_the_kernels() -> None:
    """Settings are read without torch, and the kernels know nothing of settings."""
    assert get_args(get_type_hints(DyHeadConfig)["offset_mode"]) == get_args(OffsetMode)


def test_a_setting_that_may_not_be_left_out_is_named() -> None:
    content = json.loads(DetectorConfig(architecture="x", labels=("a",)).to_json())
    content["preprocess"]["training_scale"] = {"object_px": 10.0}
    with pytest.raises(CheckpointError, match=r"preprocess\.training_scale: image_size is missing, expected"):
        DetectorConfig.from_json(json.dumps(content))
