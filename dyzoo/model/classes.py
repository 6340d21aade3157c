"""Choice among the classes of a detector: which to keep, from which score on."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dyzoo.errors import SettingError

DEFAULT_THRESHOLD = 0.3


def class_thresholds(
    labels: Sequence[str], threshold: float | Mapping[str, float], classes: Sequence[str] | None
) -> Tensor:
    """The least score of each class.

    Args:
        labels: names of all classes, C of them.
        threshold: for all, or by name; classes that a mapping lacks have `DEFAULT_THRESHOLD`.
        classes: names of those to keep; None for all.

    Returns:
        (C,) float32, infinite for a class that is not kept.

    Raises:
        ValueError: a name is not among `labels`, the nearest that is is named; or a threshold lies outside of 0 to 1.
    """
    if isinstance(classes, str):
        raise SettingError(f"classes is {classes!r}, expected a list of names such as [{classes!r}]")
    by_name: Mapping[str, float] = threshold if isinstance(threshold, Mapping) else {}
    default = DEFAULT_THRESHOLD if isinstance(threshold, Mapping) else threshold
    for name in (*by_name, *(classes or ())):
        if name not in labels:
            raise SettingError(f"the model knows no class {name!r}, {_nearest(name, labels)}")
    _check(default, "threshold")
    for name, value in by_name.items():
        _check(value, f"threshold of {name!r}")
    kept = set(labels if classes is None else classes)
    return torch.tensor([by_name.get(name, default) if name in kept else math.inf for name in labels])


def _check(value: Any, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise SettingError(f"the {what} is {value!r}, expected 0 to 1")


def _nearest(name: object, labels: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(name).lower(), [label.lower() for label in labels], 1, 0.5)
    if near:
        return f"did you mean {next(label for label in labels if label.lower() == near[0])!r}?"
    return f"expected some of {', '.join(labels[:10])}{', ...' if len(labels) > 10 else ''}"
