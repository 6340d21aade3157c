"""Printing for the commands. Names come from strangers: no control character reaches the terminal, and a letter that
its encoding lacks ends no command."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dyzoo.environment import launched_index, launched_processes
from dyzoo.errors import DyzooWarning
from dyzoo.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table
    from rich.text import Text


def prepare() -> None:
    """Let a stream that cannot encode a letter spell it out."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def say(line: str) -> None:
    """Print one line on stdout."""
    print(printable(line))


def show(text: str) -> None:
    """Print text of several lines, names in which are on one line already, on stdout."""
    print("\n".join(map(printable, text.split("\n"))))


def note(line: str) -> None:
    """Print something worth knowing that is no error, on stderr."""
    print(f"note: {_whose()}{printable(line)}", file=sys.stderr)


@contextmanager
def noted_warnings() -> Iterator[None]:
    """Print dyzoo's own warnings as notes; those of other libraries as Python does."""
    with warnings.catch_warnings():
        show_as_python_does = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
            if issubclass(category, DyzooWarning):
                note(str(message))
            else:
                show_as_python_does(message, category, *place, **options)

        warnings.showwarning = show
        warnings.simplefilter("always", DyzooWarning)
        yield


def complain(line: str) -> None:
    """Print an error, on stderr."""
    print(f"error: {_whose()}{printable(line)}", file=sys.stderr)


def _whose() -> str:
    """Which process speaks, where a launcher started several."""
    return f"process {launched_index()}: " if launched_processes() > 1 else ""


def megabytes(size: int) -> str:
    """A number of bytes as it is shown."""
    return f"{size / 1e6:.0f} MB" if size >= 10_000_000 else f"{size / 1e6:.1f} MB"


def show_table(table: Table) -> None:
    """Print a table, whose cells are `plain`, on stdout."""
    from rich.console import Console

    Console().print(table)


def plain(name: str) -> Text:
    """A name as a cell of a table, no part of which is taken for markup or for the name of an emoji."""
    from rich.text import Text

    return Text(printable(name))


def progress_bar(is_shown: bool = True) -> Progress:
    """A bar on stderr, if that is a terminal and it is shown at all; lines printed meanwhile appear above it, or go
    where stdout goes."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (is_shown and console.is_terminal),
        redirect_stdout=sys.stdout.isatty(),
    )
