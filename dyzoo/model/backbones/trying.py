"""Trying one timm model of every family as a backbone: how `families.json` is made."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict

import timm
import torch

from dyzoo.config import BackboneConfig
from dyzoo.errors import UnknownModelError, first_line
from dyzoo.files import write_text
from dyzoo.model.backbones.backbone import Backbone, map_indices
from dyzoo.model.backbones.creation import create_timm_model
from dyzoo.model.backbones.families import STRIDES_PX, TABLE, Family, family_of

# words in timm's names, the smallest models first
SIZES = (
    "test", "zepto", "atto", "femto", "pico", "nano", "xxt", "xxs", "xx", "xt", "xs", "tiny", "micro", "mini",
    "lite", "t", "s0", "b0", "m0", "a0", "t0", "v0", "002", "0", "small", "s", "m", "base", "b", "large", "l",
)  # fmt: skip


def members() -> dict[str, list[str]]:
    """timm's models by family, those of a family from the presumably smallest on."""
    found: dict[str, list[str]] = {}
    for model in timm.list_models():
        found.setdefault(family_of(model), []).append(model)
    return {name: sorted(models, key=_size) for name, models in sorted(found.items())}


def try_model(model: str) -> str:
    """Why `Backbone` refuses a timm model, one line; empty where it fits."""
    config = BackboneConfig(model)
    try:
        with torch.device("meta"):  # costs nothing, where the model allows it
            without_values = create_timm_model(config, pretrained=False)
    except Exception:  # the model reads values while it is built
        without_values = None
    try:
        if without_values is not None:
            map_indices(config, without_values, STRIDES_PX)
        Backbone(config, STRIDES_PX).try_out()
    except UnknownModelError as error:
        return first_line(error)
    return ""


def try_families() -> Iterator[tuple[str, Family]]:
    """Try one model of every family that timm has."""
    for name, models in members().items():
        yield name, Family(name.split("/")[0], models[0], try_model(models[0]))


def main() -> None:
    """Try every family and rewrite the table."""
    rows = {name: asdict(family) for name, family in try_families()}
    write_text(TABLE, json.dumps(rows, indent=1) + "\n")
    print(f"{len(rows)} families, {sum(not row['refusal'] for row in rows.values())} fit -> {TABLE}")


def _size(model: str) -> tuple[int, int, str]:
    words = re.split(r"[_.]", model)
    rank = min((SIZES.index(word) for word in words if word in SIZES), default=len(SIZES))
    digits = re.search(r"\d+", model)
    return rank, int(digits.group()) if digits else 0, model
