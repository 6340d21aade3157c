"""Text on a Gradio page."""

from __future__ import annotations

import html

import gradio as gr

from dyzoo.text import printable


def page_error(line: str) -> gr.Error:
    """One line that the page shows as an error: Gradio takes it for HTML, and names in it come from strangers."""
    return gr.Error(html.escape(printable(line), quote=False), print_exception=False)
