"""The content of a training's `run.json`, as lines of a table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from dyzoo.config.training import LEFT_OPEN, TrainConfig

_PLACES = ("data", "out", "resume")  # where things lay and how the run was started, not what it was made of


class Setting(NamedTuple):
    """A setting that is not at its default."""

    name: str
    value: str
    default: str


def changed_settings(config: Mapping[str, Any]) -> list[Setting]:
    """The settings of `record["config"]` that differ from the defaults; those inside others have dotted names."""
    defaults = dict(_flat(json.loads(json.dumps(asdict(TrainConfig(data=Path())), default=str))))
    return [
        Setting(name, _said(value), "by the data" if name in LEFT_OPEN else _said(defaults.get(name, "")))
        for name, value in _flat(config)
        if name not in _PLACES and (name not in defaults or value != defaults[name])
    ]


def dataset_name(record: Mapping[str, Any] | None) -> str | None:
    """Name of the folder that was trained on."""
    data = _part(record, "config").get("data")
    return PurePath(str(data)).name or None if data else None


def facts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Seed, processes, device, precision and the like."""
    said = [("seed", _said(_part(record, "config").get("seed")))]
    said += [
        (name.replace("_", " "), _said(value))
        for name, value in record.items()
        if value is not None and not isinstance(value, Mapping | list)
    ]
    return said


def versions(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Package -> version."""
    return [(name, _said(value)) for name, value in _part(record, "versions").items()]


def splits(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name of each split, its number of images, and the SHA-256 of its labels and image files."""
    known = {name: value for name, value in _part(record, "data").items() if isinstance(value, Mapping)}
    return [(name, _said(value.get("images")), _said(value.get("sha256"))) for name, value in known.items()]


def _part(record: Mapping[str, Any] | None, name: str) -> Mapping[str, Any]:
    """An object inside the record; an older record may lack it."""
    part = (record or {}).get(name)
    return part if isinstance(part, Mapping) else {}


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _said(value: Any) -> str:
    """A value as the command line writes it; of a path on this machine only the name."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_said, value))
    if isinstance(value, str) and PurePath(value).is_absolute():
        return PurePath(value).name
    return f"{value:g}" if isinstance(value, float) else str(value)
