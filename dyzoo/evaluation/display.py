"""Text that the reports of this package print: numbers, columns that line up, a bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.cells import cell_len
from rich.console import Console
from rich.progress import Progress

from dyzoo.text import printable


def number(value: float | None) -> str:
    """A metric to three places, a dash where there is none."""
    return "-" if value is None else f"{value:.3f}"


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Lines of cells, the first of each row left-aligned, the others to the right; rows are of one length."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        gaps = [" " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        cells = [row[0] + gaps[0], *(gap + cell for cell, gap in zip(row[1:], gaps[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def facts_table(facts: Sequence[tuple[str, ...]]) -> str:
    """Label and values, each in a left-aligned column."""
    rows = [[printable(cell) for cell in fact] for fact in facts]
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    padded = ((cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join("  ".join(row).rstrip() for row in padded)


@contextmanager
def shown(total: int, what: str, progress: bool) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, if that is wanted and stderr is a terminal; it moves by what its function is called with."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not (progress and console.is_terminal)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda steps: bar.advance(task, steps)
