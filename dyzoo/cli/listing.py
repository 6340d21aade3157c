"""`dyzoo list`: the architectures and checkpoints there are."""

from __future__ import annotations

from typing import Annotated

import typer

from dyzoo.errors import UnknownModelError


def list_models(
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="Shell wildcards, in quotes.")] = "*",
) -> None:
    """List the trained checkpoints and the architectures.

    \b
    Examples:
      dyzoo list
      dyzoo list '*swin*'
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from dyzoo.architectures import ARCHITECTURES
    from dyzoo.catalog import checkpoints
    from dyzoo.zoo import list_models as names

    trained = Table("checkpoint", "dataset", "metrics", "licence", box=box.SIMPLE_HEAD)
    for name in names(pattern, pretrained=True):
        known = checkpoints()[name]
        metrics = ", ".join(f"{metric} {value:.3f}" for metric, value in known.metrics.items())
        trained.add_row(name, known.dataset, metrics, known.licence)
    untrained = Table("architecture", "what it is", box=box.SIMPLE_HEAD)
    for name in names(pattern):
        untrained.add_row(name, (ARCHITECTURES[name].__doc__ or "").splitlines()[0])
    tables = [table for table in (trained, untrained) if table.row_count]
    if not tables:
        raise UnknownModelError(f"no model is called {pattern!r}: `dyzoo list` shows all of them")
    for table in tables:
        table.columns[0].no_wrap = True
        Console().print(table)
