"""Settings of a training run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dyzoo.config.training import TrainConfig, parse_attentions


def test_paths_may_be_text() -> None:
    config = TrainConfig(data="DIR", out="runs/mine", backbone_weights="weights.safetensors")  # type: ignore[arg-type]
    assert (config.data, config.folder, config.backbone_weights) == (
        Path("DIR"),
        Path("runs/mine"),
        Path("weights.safetensors"),
    )
    assert TrainConfig(data=Path("DIR")).folder == Path("runs/dyhead_atss_resnet10t")


@pytest.mark.parametrize(
    ("text", "on"),
    [("none", set()), ("scale", {"scale"}), ("task, spatial", {"spatial", "task"}), ("scale,spatial,task", None)],
)
def test_attentions_are_named(text: str, on: set[str] | None) -> None:
    names = {"scale", "spatial", "task"}
    assert parse_attentions(text) == {name: on is None or name in on for name in names}


@pytest.mark.parametrize("text", ["", "all", "scale;task", "scale,", "none,task"])
def test_attentions_that_do_not_exist_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected some of scale, spatial, task as in scale,task, or none"):
        TrainConfig(data=Path("DIR"), attentions=text)


@pytest.mark.parametrize("changes", [{"blocks": 2}, {"attentions": "none"}, {"form": "tensor"}])
def test_a_whole_detector_has_its_own_blocks(changes: dict[str, Any]) -> None:
    config = replace(TrainConfig(data=Path("DIR")), **changes)
    with pytest.raises(ValueError, match="expected no blocks, attentions and form beside it"):
        replace(config, weights="runs/mine")


def test_there_is_a_most_of_blocks() -> None:
    assert TrainConfig(data=Path("DIR"), blocks=0).blocks == 0
    with pytest.raises(ValueError, match="blocks is 65, expected 0 to 64"):
        TrainConfig(data=Path("DIR"), blocks=65)
