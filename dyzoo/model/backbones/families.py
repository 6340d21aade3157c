"""Which timm models fit: a table of their families, kept in `families.json` and shown by `dyzoo list --backbones`.

`python -m dyzoo.model.backbones` tries one model of every family again and rewrites the file.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

STRIDES_PX = (8, 16, 32)
TABLE = Path(__file__).with_name("families.json")


@dataclass(frozen=True)
class Family:
    """timm models that share a module and the first word of their names.

    Attributes:
        module: timm's module, such as "byobnet".
        example: the model that was tried, a small one.
        refusal: why `Backbone` refuses it, one line; empty where it fits.
    """

    module: str
    example: str
    refusal: str = ""

    @property
    def reason(self) -> str:
        """The refusal without the name of the model and the way out."""
        return self.refusal.removeprefix(f"backbone {self.example!r} ").rpartition(": `dyzoo")[0]


@cache
def families() -> dict[str, Family]:
    """The table by name, "module/word"."""
    return {name: Family(**row) for name, row in json.loads(TABLE.read_text(encoding="utf-8")).items()}


def family_of(model: str) -> str:
    """The name of a timm model's family, as `families` has it."""
    from timm.models._registry import _model_to_module

    architecture = model.split(".")[0]
    word = re.match(r"(?:tf_|legacy_)?[a-z]+(?:v\d)?", architecture)
    return f"{_model_to_module[architecture]}/{word.group() if word else architecture}"


def is_known_to_fit(model: str) -> bool:
    """Whether the table vouches for a model, by another of its family."""
    family = families().get(family_of(model))
    return family is not None and not family.refusal
