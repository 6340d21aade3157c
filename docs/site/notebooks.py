"""Notebooks as pages: cells as Markdown and fenced code, with what they print and draw where they are executed."""

from __future__ import annotations

import base64
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

SECONDS = 600  # for one cell, on a machine with other work
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")  # colours of a terminal


class NotebookPage(NamedTuple):
    """Text of a page, and its pictures by their paths in the site."""

    markdown: str
    pictures: dict[str, bytes]


def read(path: Path) -> Any:
    """A notebook, as nbformat's node."""
    import nbformat

    return nbformat.read(path, as_version=4)


def execute(notebook: Any) -> None:
    """Run all cells from top to bottom in a kernel of this Python, in an empty folder; outputs are put into the cells.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell has failed; the message holds the cell and its error.
    """
    from nbclient import NotebookClient

    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {
            "timeout": SECONDS,
            "kernel_name": "python3",
            "resources": {"metadata": {"path": folder}},
        }
        NotebookClient(notebook, **settings).execute()


def page(notebook: Any, site_page: str) -> NotebookPage:
    """The page of a notebook.

    Args:
        notebook: executed or not.
        site_page: its path in the site; the notebook itself lies beside it, and pictures get its name.
    """
    stem = PurePosixPath(site_page).stem
    pictures: dict[str, bytes] = {}
    parts: list[str] = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            parts.append(cell["source"])
        elif cell["source"].strip():
            parts.append(_fenced(cell["source"], "python"))
            parts += _outputs(cell.get("outputs", ()), stem, pictures)
    parts.insert(1, f'<a href="{stem}.ipynb" download>The notebook to run</a>')
    folder = PurePosixPath(site_page).parent
    return NotebookPage("\n\n".join(parts) + "\n", {str(folder / name): data for name, data in pictures.items()})


def _outputs(outputs: Sequence[Mapping[str, Any]], stem: str, pictures: dict[str, bytes]) -> list[str]:
    """Texts and pictures that a cell has given; warnings on stderr are left to those who run it."""
    parts: list[str] = []
    text = ""
    for output in outputs:
        data = output.get("data", {})
        if "image/png" in data:
            name = f"{stem}-{len(pictures) + 1}.png"
            pictures[name] = base64.b64decode(data["image/png"])
            parts += [_fenced(text, "text")] if text else []
            parts.append(f"![]({name})")
            text = ""
        elif output.get("name") != "stderr":
            said = str(output.get("text") or data.get("text/plain") or "")
            text += said if said.endswith("\n") or not said else f"{said}\n"
    return parts + ([_fenced(text, "text")] if text else [])


def _fenced(text: str, language: str) -> str:
    return f"```{language}\n{_ESCAPES.sub('', text).rstrip()}\n```"
