"""Notebooks run from top to bottom, are stored without what they have printed, and become pages of the site."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from docs.site import formulas, notebooks

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))
named = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.mark.slow
@named
def test_notebooks_run(path: Path) -> None:
    for name in ("nbclient", "ipykernel"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install 'dyzoo[docs]'")
    notebook = notebooks.read(path)
    notebooks.execute(notebook)  # raises where a cell does
    answered = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.outputs]
    assert answered
    assert notebooks.page(notebook, f"notebooks/{path.stem}.md").markdown.count("```text\n") > 0


@named
def test_notebooks_are_stored_without_outputs(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert set(notebook["metadata"]) <= {"kernelspec", "language_info"}
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


def test_there_are_notebooks() -> None:
    assert {"attentions", "fine_tune", "own_head", "words"} <= {path.stem for path in NOTEBOOKS}


def code_cell(source: str, *outputs: dict[str, Any]) -> dict[str, Any]:
    return {"cell_type": "code", "source": source, "outputs": list(outputs)}


def test_a_page_has_the_cells_and_what_they_say_and_draw() -> None:
    png = base64.b64encode(b"picture").decode()
    cells = [
        {"cell_type": "markdown", "source": "# Title"},
        code_cell(
            "f()",
            {"output_type": "stream", "name": "stdout", "text": "\x1b[31mred\x1b[0m\n"},
            {"output_type": "stream", "name": "stderr", "text": "a warning\n"},
            {"output_type": "display_data", "data": {"image/png": png, "text/plain": "<Figure>"}},
            {"output_type": "execute_result", "data": {"text/plain": "42"}},
        ),
        code_cell(""),
    ]
    page = notebooks.page({"cells": cells}, "notebooks/a.md")
    assert page.markdown == (
        '# Title\n\n<a href="a.ipynb" download>The notebook to run</a>\n\n```python\nf()\n```\n\n'
        "```text\nred\n```\n\n![](a-1.png)\n\n```text\n42\n```\n"
    )
    assert page.pictures == {"notebooks/a-1.png": b"picture"}


def test_formulas_become_mathml_and_other_text_stays() -> None:
    pytest.importorskip("latex2mathml", reason="latex2mathml is not installed: pip install 'dyzoo[docs]'")
    inline = r'<p>with <span class="arithmatex">\(a &lt; b\)</span>, $5</p>'
    drawn = formulas.drawn(inline)
    assert drawn.startswith("<p>with <math ")
    assert 'display="inline"' in drawn
    assert "arithmatex" not in drawn
    assert drawn.endswith("</math>, $5</p>")
    assert 'display="block"' in formulas.drawn('<div class="arithmatex">\\[\\frac{1}{2}\\]</div>')
    assert formulas.drawn("<p>none</p>") == "<p>none</p>"
