"""The door through which strangers' pictures come into a Gradio page, and the way of files out of it."""

from __future__ import annotations

from abc import ABCMeta
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder

from dyzoo.demo.detecting import Upload
from dyzoo.demo.text import page_error
from dyzoo.files import read_regular

MOST_BYTES = 1 << 26
"""Size of the largest file that is taken, 67 MB."""


def picture_input(**options: Any) -> gr.Image:
    """An input component for a picture whose value is an `Upload`, or None.

    Gradio's own would open the file with all formats that Pillow knows, and fetch an address that a client sends in
    place of a file. This one hands over the bytes of a file that was uploaded, undecoded, and refuses all else.
    """
    return _PictureInput(image_mode=None, type="filepath", **options)


async def _keep(component: Any, path: str | Path | None) -> str | None:
    if path is not None and "://" in str(path):
        raise page_error("an address came, expected the file of a picture: upload it")
    if path is not None and not _is_uploaded(Path(path)):  # Gradio copies any, where the page is a part of another
        raise page_error("the file was not uploaded: upload it")
    kept: str | None = await gr.Image.async_move_resource_to_block_cache(component, path)
    return kept


def _read(sent: Any) -> Upload | None:
    """The content of an uploaded file."""
    if sent is None:
        return None
    if not sent.path or (sent.url or "").startswith("data:"):
        raise page_error("no file came, expected that of a picture: upload it")
    path = Path(sent.path)
    if not _is_uploaded(path):
        raise page_error("the file was not uploaded: upload it")
    try:
        content = read_regular(path, MOST_BYTES)
    except FileNotFoundError:
        raise page_error("the picture is no longer kept here: upload it again") from None
    except OSError as error:
        raise page_error(f"the picture cannot be read: {error.strerror}") from None
    return Upload(Path(sent.orig_name or path.name).name, content)


def _is_uploaded(path: Path) -> bool:
    """Whether a file is in the folder of uploads, when all links are followed."""
    try:
        return path.resolve().is_relative_to(Path(get_upload_folder()).resolve())
    except (OSError, ValueError):  # a circle of links, a null byte
        return False


# A class, as Gradio makes the component anew from it for a session; past Gradio's metaclass, which would write a .pyi
# file beside this module.
_PictureInput: Any = ABCMeta.__new__(
    type(gr.Image),
    "PictureInput",
    (gr.Image,),
    {
        "is_template": True,  # to the browser it is an image
        "preprocess": lambda component, sent: _read(sent),
        "async_move_resource_to_block_cache": _keep,
    },
)


def to_send(name: str, content: bytes) -> str:
    """The path of a file that a page sends, where Gradio would copy it to, and clears it away in time."""
    return str(save_bytes_to_cache(content, name, get_upload_folder()))
