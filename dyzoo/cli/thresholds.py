"""The option --threshold: a score for all classes, for some, or those that a report suggests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from dyzoo.cli.settings import option_of
from dyzoo.cli.terminal import note
from dyzoo.config.prediction import PredictConfig
from dyzoo.files import read_regular

_MOST_BYTES = 1 << 24
_OPTION = "--threshold"

ThresholdOption = Annotated[list[str] | None, option_of(PredictConfig, "threshold", shown=str(PredictConfig.threshold))]


@dataclass
class Thresholds:
    """The scores that --threshold asks for.

    Attributes:
        all: that of a class which has none of its own; None: the default.
        suggested: by class, from a report's file.
        chosen: by class, as the user gave them.
    """

    all: float | None = None
    suggested: dict[str, float] = field(default_factory=dict)
    chosen: dict[str, float] = field(default_factory=dict)

    def for_classes(self, labels: Sequence[str]) -> float | dict[str, float]:
        """`Detector.predict`'s threshold for a detector of these classes."""
        if unknown := [name for name in self.chosen if name not in labels]:
            some = ", ".join(labels[:10]) + (", ..." if len(labels) > 10 else "")
            raise typer.BadParameter(f"the model knows no class {unknown[0]!r}, but {some}", param_hint=_OPTION)
        if strange := [name for name in self.suggested if name not in labels]:
            note(f"thresholds of {', '.join(strange[:10])} are passed over: the model knows no such classes")
        rest = PredictConfig.threshold if self.all is None else self.all
        assert isinstance(rest, float)
        by_class = {**self.suggested, **self.chosen}
        return {name: by_class.get(name, rest) for name in labels} if by_class else rest


def parse_thresholds(texts: Sequence[str] | None) -> Thresholds:
    """`--threshold`, each of which is X, NAME=X, or the path of a report's thresholds.json."""
    thresholds = Thresholds()
    of_file: float | None = None
    for text in texts or ():
        name, equals, number = text.rpartition("=")
        if (score := _score(text)) is not None:
            thresholds.all = score
        elif Path(text).suffix.lower() == ".json":
            of_file = _read(text, thresholds.suggested)
        elif equals and name.strip() and (score := _score(number)) is not None:
            thresholds.chosen[name.strip()] = score
        else:
            raise typer.BadParameter(
                f"{text!r} is no score from 0 to 1, no NAME=X such as RBC=0.5, and no thresholds.json",
                param_hint=_OPTION,
            )
    if thresholds.all is None:
        thresholds.all = of_file
    return thresholds


def _score(text: Any) -> float | None:
    """A score, if this is one, as text or as a number of JSON."""
    try:
        score = float(text)
    except (TypeError, ValueError, OverflowError):
        return None
    return score if 0 <= score <= 1 and not isinstance(text, bool) else None


def _read(path: str, by_class: dict[str, float]) -> float | None:
    """Add the thresholds of the classes in the file; gives that for all."""
    content = read_regular(path, _MOST_BYTES)
    try:
        values = json.loads(content)
        found = {name: _score(value) for name, value in values["per_class"].items() if value is not None}
        rest = values["threshold"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        found, rest = {"": None}, None
    if None in found.values() or (rest is not None and _score(rest) is None):
        raise typer.BadParameter(
            f"{path} holds no thresholds, expected thresholds.json beside the report of an evaluation or a training",
            param_hint=_OPTION,
        )
    by_class.update({name: score for name, score in found.items() if score is not None})
    return _score(rest)
