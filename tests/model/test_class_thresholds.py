"""Thresholds by class and the choice of classes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from dyzoo.model.classes import class_thresholds

LABELS = ("RBC", "WBC", "Platelets")


@pytest.mark.parametrize(
    ("threshold", "classes", "limits"),
    [
        (0.5, None, [0.5, 0.5, 0.5]),
        (0, ["WBC"], [math.inf, 0, math.inf]),
        ({"RBC": 0.9}, None, [0.9, 0.3, 0.3]),
        ({"RBC": 0.9, "WBC": 1}, ("Platelets", "RBC"), [0.9, math.inf, 0.3]),
        (0.5, [], [math.inf] * 3),
    ],
    ids=["one", "one class", "by class", "both", "no class"],
)
def test_each_class_has_its_limit(threshold: Any, classes: Any, limits: list[float]) -> None:
    torch.testing.assert_close(class_thresholds(LABELS, threshold, classes), torch.tensor(limits))


@pytest.mark.parametrize(
    ("threshold", "classes", "said"),
    [
        (0.3, ["platelet"], "the model knows no class 'platelet', did you mean 'Platelets'?"),
        ({"rbc": 0.3}, None, "the model knows no class 'rbc', did you mean 'RBC'?"),
        (0.3, ["zebra"], "the model knows no class 'zebra', expected some of RBC, WBC, Platelets"),
        (0.3, [0], "the model knows no class 0, expected some of RBC, WBC, Platelets"),
        (0.3, "RBC", "classes is 'RBC', expected a list of names such as ['RBC']"),
        (1.5, None, "the threshold is 1.5, expected 0 to 1"),
        (math.nan, None, "the threshold is nan, expected 0 to 1"),
        ("0.5", None, "the threshold is '0.5', expected 0 to 1"),
        ({"RBC": None}, None, "the threshold of 'RBC' is None, expected 0 to 1"),
    ],
    ids=str,
)
def test_a_wrong_choice_is_one_line(threshold: Any, classes: Any, said: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        class_thresholds(LABELS, threshold, classes)
    assert str(caught.value) == said
