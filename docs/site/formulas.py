"""Formulas as MathML, which browsers draw without a script."""

from __future__ import annotations

import html
import re

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def drawn(page: str) -> str:
    """The HTML of a page, with MathML in the place of the LaTeX that Markdown has marked as such."""
    from latex2mathml.converter import convert

    def mathml(formula: re.Match[str]) -> str:
        display = "block" if formula[1] == "div" else "inline"
        return convert(html.unescape(formula[2]).strip(), display=display)  # type: ignore[no-any-return]

    return _FORMULA.sub(mathml, page)
