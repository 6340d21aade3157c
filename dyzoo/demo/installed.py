"""Whether the packages of the extra `demo` are here; nothing is imported."""

from __future__ import annotations

from importlib.util import find_spec

from dyzoo.errors import DyzooError

GRADIO = "6.31.0"
"""Gradio's version on a Space: the one that the page is tested with."""


def check_gradio() -> None:
    """Make sure that Gradio is installed.

    Raises:
        DyzooError: it is not.
    """
    if find_spec("gradio") is None:
        raise DyzooError("the page needs the package gradio: pip install 'dyzoo[demo]'")
