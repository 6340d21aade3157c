"""A run that has learnt nothing says why, and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dyzoo.config.training import ResolvedConfig
from dyzoo.training.hints import hints

FEW = "12 steps are few to learn from, 10 of them were warm-up: train for more epochs than 2 (--epochs)"
RANDOM = "the backbone began with random weights: leave out --no-pretrained-backbone, or give a file of weights"
START = "a trained detector is a better start, also one of other classes: --weights"
CHECK = "see whether boxes and classes are right: `dyzoo data check`"


@pytest.mark.parametrize(
    ("settings", "steps", "expected"),
    [
        ({}, 12, [FEW, START]),
        ({"pretrained_backbone": False}, 12, [FEW, RANDOM, START]),
        ({"pretrained_backbone": False, "backbone_weights": Path("w")}, 12, [FEW, START]),
        ({"weights": "mine"}, 12, [FEW]),
        ({"weights": "mine"}, 5000, [CHECK]),
        ({}, 5000, [START, CHECK]),
    ],
    ids=["short", "random", "from a file", "from a detector", "long from a detector", "long"],
)
def test_each_reason_is_a_line(settings: dict[str, Any], steps: int, expected: list[str]) -> None:
    config = ResolvedConfig(Path("x"), epochs=2, batch_size=1, size_px=64, **settings)
    first, *lines = hints(config, 0.0, steps, 10)
    assert first == "AP 0: the detector finds next to nothing"
    assert len(lines) == len(expected)
    assert all(line.startswith(start) for line, start in zip(lines, expected, strict=True))


def test_a_detector_that_finds_something_gets_no_hint() -> None:
    config = ResolvedConfig(Path("x"), epochs=2, batch_size=1, size_px=64)
    assert hints(config, 0.01, 12, 10) == []
    assert hints(config, 0.0042, 12, 10)[0] == "AP 0.0042: the detector finds next to nothing"
    assert hints(config, None, 12, 10)[0].startswith("AP 0:")
