"""The option --flip of the commands that detect."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Annotated

from dyzoo.cli.settings import option_of
from dyzoo.config.prediction import PredictConfig

if TYPE_CHECKING:
    from dyzoo.model.views import Flip


class FlipName(str, Enum):
    """typer takes several choices as an Enum only."""

    horizontal = "horizontal"
    vertical = "vertical"


FlipOption = Annotated[list[FlipName] | None, option_of(PredictConfig, "flips")]


def parse_flips(names: Sequence[FlipName] | None) -> list[Flip]:
    """`--flip` as `Detector.predict` takes it."""
    return [name.value for name in names or ()]
