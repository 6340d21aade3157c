"""`dyzoo cache`: the published detectors that are kept here."""

from __future__ import annotations

from typing import Annotated

import typer

from dyzoo.cli.terminal import complain, megabytes, plain, say, show_table
from dyzoo.errors import CheckpointError

ALL = "all"


def cache(
    remove: Annotated[
        list[str] | None,
        typer.Option("--remove", metavar="NAME|all", help="Remove it, or all; may be given several times."),
    ] = None,
) -> None:
    """List the published detectors that are kept here, with their sizes, or remove some.

    Detectors of the Hugging Face Hub that need no conversion are in huggingface_hub's own cache: `hf cache`.

    \b
    Examples:
      dyzoo cache
      dyzoo cache --remove mmdet_atss_r50.coco
      dyzoo cache --remove all
    """
    from dyzoo.zoo import store

    if remove:
        return _remove(remove)
    kept = store.entries()
    if kept:
        from rich import box
        from rich.table import Table

        table = Table("kept", "size", "unfinished", "fetched", "from", box=box.SIMPLE_HEAD)
        for entry in kept:
            where = (entry.provenance.fetched[:10], entry.provenance.address) if entry.provenance else ("", "")
            sizes = (megabytes(size) if size else "" for size in (entry.size, entry.unfinished))
            table.add_row(*map(plain, (entry.name, *sizes, *where)))
        table.columns[0].no_wrap = table.columns[1].no_wrap = table.columns[3].no_wrap = True
        show_table(table)
    total = sum(entry.size + entry.unfinished for entry in kept)
    say(f"{megabytes(total)} in {store.home()}")


def _remove(names: list[str]) -> None:
    from dyzoo.zoo import store

    wanted = [entry.name for entry in store.entries()] if ALL in names else list(dict.fromkeys(names))
    failed = 0
    for name in wanted:
        try:
            freed = store.remove(name)
        except CheckpointError as error:
            complain(str(error))
            failed += 1
        else:
            say(f"{name}: {megabytes(freed)} freed")
    if failed:
        raise typer.Exit(1)
