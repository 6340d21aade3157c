"""The option --flip of the commands that detect."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dyzoo.model.views import Flip


class FlipName(str, Enum):
    """typer takes several choices as an Enum only."""

    horizontal = "horizontal"
    vertical = "vertical"


FlipOption = Annotated[
    list[FlipName] | None,
    typer.Option(
        "--flip",
        metavar="horizontal|vertical",
        help="Detect in the flipped image too and merge what is found; may be given twice.",
    ),
]


def parse_flips(names: Sequence[FlipName] | None) -> list[Flip]:
    """`--flip` as `Detector.predict` takes it."""
    return [name.value for name in names or ()]
