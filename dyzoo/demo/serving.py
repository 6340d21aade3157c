"""A Gradio page on the network: on this machine alone, unless somebody asks for more."""

from __future__ import annotations

import socket
from typing import Any

import gradio as gr

from dyzoo.demo.uploads import MOST_BYTES
from dyzoo.errors import DyzooError

_FONTS = (("system-ui", "sans-serif"), ("ui-monospace", "monospace"))  # of the reader's system: none is fetched


def page_options() -> dict[str, Any]:
    """Options that belong to a page but are `launch`'s and `mount_gradio_app`'s: its looks, and its limits."""
    text, code = ([gr.themes.Font(name) for name in names] for names in _FONTS)
    return {
        "theme": gr.themes.Default(primary_hue="blue", font=text, font_mono=code),
        "footer_links": ["api", "settings"],
        "max_file_size": MOST_BYTES,
        "enable_monitoring": False,
        "run_history": False,
        "show_error": False,  # what is not an error of one line is said where the page is served
        "ssr_mode": False,
        "pwa": False,
        "mcp_server": False,
    }


def start(app: gr.Blocks, host: str | None = None, port: int | None = None, *, share: bool = False) -> str:
    """Serve a page from now on, in threads of this process; gives its address.

    Args:
        app: the page.
        host: None: `GRADIO_SERVER_NAME`, else 127.0.0.1, which this machine alone reaches.
        port: None: `GRADIO_SERVER_PORT`, else the first free one from 7860.
        share: have Gradio's servers make a public address, too, through which all data then goes.

    Raises:
        DyzooError: there is no public address to be had.
        OSError: the port is taken, or the host is none of this machine.
    """
    _check_address(host, port)
    _, local, public = app.launch(
        server_name=host, server_port=port, share=share, quiet=True, prevent_thread_lock=True, **page_options()
    )
    if share and not public:
        app.close()
        raise DyzooError("Gradio's servers give no public address: check the network, or leave --share out")
    return public or local


def serve(app: gr.Blocks, host: str | None = None, port: int | None = None) -> None:
    """Serve a page until the process is interrupted; arguments and errors as for `start`."""
    start(app, host, port)
    app.block_thread()


def _check_address(host: str | None, port: int | None) -> None:
    """Make sure that an address can be listened at, of which Gradio would say so in a hundred lines."""
    if host is None:
        return
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port or 0), family=family).close()
    except OSError as error:
        why = (error.strerror or str(error)).partition(" (while")[0]  # Python adds the address once more
        raise OSError(error.errno, why, host if port is None else f"{host}:{port}") from None
