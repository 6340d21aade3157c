import json
from dataclasses import replace

import pytest

from dyzoo.architectures import ARCHITECTURES
from dyzoo.config import DetectorConfig
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
        ({"head": {"type": "yolo"}}, "head: type is 'yolo', expected one of atss, retinanet"),
        ({"head": {}}, "head: type is None"),
        ({"head": 3}, "head is 3, expected an object"),
        ({"preprocess": {"mean": [1.0, 2.0]}}, "mean is"),
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
