"""Parameters of a request: what its pictures are asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from dyzoo.config.serving import ServeConfig
from dyzoo.errors import DyzooError
from dyzoo.model.classes import class_thresholds
from dyzoo.model.pipeline import Pipeline
from dyzoo.serving.refusals import LONGEST, Refusal
from dyzoo.text import printable

NAMES = ("threshold", "classes", "size")


Pairs = Sequence[tuple[str, str]]


def choose(query: Pairs, fields: Pairs, served: Pipeline, config: ServeConfig) -> Pipeline:
    """The way of a request's pictures: the server's, but for what the request asks.

    Args:
        query: names and values of parameters; `classes` may come several times, and names in it are parted by commas.
        fields: those of the form, before which the query's of the same name give way.
        served: the server's own.
        config: what it was made of.

    Raises:
        Refusal: there is no such parameter, or its value is out of bounds.
    """
    values = {**_by_name(query), **_by_name(fields)}
    settings = served.settings
    threshold = config.threshold if "threshold" not in values else _threshold(_single("threshold", values))
    classes = config.classes if "classes" not in values else _classes(values["classes"], served, config)
    size = settings.size if "size" not in values else _size(_single("size", values), config)
    try:
        thresholds = class_thresholds(served.model.labels, threshold, classes)
    except DyzooError as error:
        raise Refusal(422, printable(str(error))[:LONGEST]) from None
    return replace(served, settings=replace(settings, thresholds=thresholds, size=size), missed={})


def _by_name(pairs: Pairs) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for name, value in pairs:
        if name not in NAMES:
            raise Refusal(422, f"there is no parameter {printable(name)[:40]!r}, expected {', '.join(NAMES)}")
        values.setdefault(name, []).append(value)
    return values


def _single(name: str, values: dict[str, list[str]]) -> str:
    if len(values[name]) > 1:
        raise Refusal(422, f"{name} is there {len(values[name])} times, expected once")
    return values[name][0]


def _threshold(text: str) -> float:
    try:
        value = float(text) if len(text) <= 40 and text.isascii() else math.nan
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise Refusal(422, f"threshold is {printable(text)[:40]!r}, expected a number from 0 to 1")
    return value


def _classes(texts: Sequence[str], served: Pipeline, config: ServeConfig) -> list[str]:
    """Names of classes; one with a comma is meant where a value is all of it."""
    labels = served.model.labels
    names = [name for text in texts for name in ([text] if text in labels else map(str.strip, text.split(",")))]
    kept = labels if config.classes is None else config.classes
    for name in names:
        if name in labels and name not in kept:
            raise Refusal(422, f"class {printable(name)[:40]!r} is not served")
    return names


def _size(text: str, config: ServeConfig) -> int | Literal["native"]:
    if text.isascii() and text.isdecimal() and len(text) <= 9 and 1 <= int(text) <= config.max_size:
        return int(text)
    raise Refusal(422, f"size is {printable(text)[:40]!r}, expected 1 to {config.max_size} pixels")
