"""A Gradio page that looks for objects in a picture. Needs `pip install 'dyzoo[demo]'`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr
import torch

from dyzoo.demo.detecting import COLUMNS, SIZES, Memory, Upload, Wish, answer
from dyzoo.demo.explaining import reasons
from dyzoo.demo.models import IN_MEMORY, Models, offered_models
from dyzoo.demo.text import page_error
from dyzoo.demo.uploads import picture_input, to_send
from dyzoo.errors import DyzooError, full_memory
from dyzoo.images.drawing import save_picture
from dyzoo.model.classes import DEFAULT_THRESHOLD
from dyzoo.zoo.catalog import sample_image

_AT_A_TIME = 1  # more would share one processor, and its memory
_MOST_WAITING = 32
_CLEAR_EVERY_S, _KEEP_S = 600, 3600  # uploads and results

_TITLE = "dyzoo"
_INTRODUCTION = "# dyzoo\nFind objects in a picture with a Dynamic Head detector."


def create_app(
    models: Sequence[str | Path] = (),
    *,
    catalog: bool = True,
    device: str | torch.device | None = None,
    threshold: float = DEFAULT_THRESHOLD,
    in_memory: int = IN_MEMORY,
) -> gr.Blocks:
    """A page with a picture and settings on one side, and what a detector finds on the other.

    `dyzoo.demo.serving.serve` serves it; `gradio.mount_gradio_app` puts it into an application of yours, with
    `**dyzoo.demo.serving.page_options()`.

    Args:
        models: those to choose from, as `dyzoo.load` takes them, each of which is loaded here once, so that a mistake
            shows; the page begins with the first.
        catalog: offer the embedded one, too, and those of the catalogue that are fetched already.
        device: None: the GPU where there is one.
        threshold: where the slider stands first.
        in_memory: most detectors that are kept in memory.

    Raises:
        DyzooError: a model cannot be loaded.
        ValueError: there is none.
    """
    loaded = Models([*models, *(offered_models() if catalog else [])], device, in_memory)
    if not loaded.names:
        raise ValueError("there is no model to offer: name one, or leave catalog=True")
    for name in reversed(loaded.names[: max(len(models), 1)]):  # the first stays in memory
        labels = loaded.get(name).labels

    with gr.Blocks(title=_TITLE, analytics_enabled=False, delete_cache=(_CLEAR_EVERY_S, _KEEP_S)) as app:
        gr.Markdown(_INTRODUCTION)
        memory = gr.State(None, time_to_live=_KEEP_S)
        with gr.Row():  # on a phone one column after the other: the picture, what is in it, the settings, the numbers
            with gr.Column():
                picture = picture_input(
                    label="Picture", sources=["upload", "webcam", "clipboard"], height=380, buttons=[]
                )
                gr.Examples([[str(sample_image())]], [picture], label="Example", cache_examples=False)
            with gr.Column():
                annotated = gr.Image(
                    label="Detections",
                    show_label=False,  # it would lie over the captions
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    height=380,
                    elem_id="annotated",
                    alt_text="The picture with a box around each object.",
                )
                found = gr.Textbox(
                    label="Found",
                    placeholder="Upload, drop, paste or take a picture, or choose the example.",
                    lines=1,
                    max_lines=5,
                    interactive=False,
                    elem_id="found",
                )
        with gr.Row():
            with gr.Column():
                model = gr.Dropdown(
                    list(loaded.names), value=loaded.names[0], label="Model", filterable=False, elem_id="model"
                )
                slider = gr.Slider(0, 1, threshold, step=0.01, label="Threshold", elem_id="threshold")
                classes = gr.Dropdown(
                    list(labels), multiselect=True, label="Classes", info="None chosen: all.", elem_id="classes"
                )
                size = gr.Dropdown(
                    [("as trained", 0), *((f"{edge} px", edge) for edge in SIZES)],
                    value=0,
                    label="Size",
                    info="Shortest edge that the network sees.",
                    filterable=False,
                    elem_id="size",
                )
            with gr.Column():
                table = gr.Dataframe(
                    headers=list(COLUMNS),
                    datatype=["str", *["number"] * (len(COLUMNS) - 1)],
                    label="Objects, boxes in pixels",
                    interactive=False,
                    max_height=320,
                    elem_id="objects",
                )
                download = gr.DownloadButton("Download as JSON", interactive=False, elem_id="download")
        with gr.Accordion("Why?", open=False, elem_id="why"):
            with gr.Row():
                number = gr.Number(
                    value=0,
                    precision=0,
                    minimum=0,
                    label="Object",
                    info="Its row in the table, from 0.",
                    elem_id="object",
                )
                ask = gr.Button("Show what the attentions do", elem_id="explain")
                whole = gr.DownloadButton("Download all blocks as a page", interactive=False, elem_id="page")
            panels = gr.Gallery(
                label="Attentions",
                columns=2,
                object_fit="contain",
                height="auto",
                format="png",
                interactive=False,
                elem_id="panels",
            )

        def detect(
            upload: Upload | None, name: str, least: float, kept: list[str] | None, edge: int, known: Memory | None
        ) -> tuple[Any, ...]:
            """Objects in a picture: drawn, in words, as a table, and as a JSON file."""
            if upload is None:
                return None, "", [], gr.DownloadButton(value=None, interactive=False), None
            with _one_line_errors():
                given = answer(loaded, upload, Wish(name, least, edge or None, tuple(kept) if kept else None), known)
                with TemporaryDirectory() as folder:
                    aside = Path(folder) / "detections.jpg"
                    save_picture(given.plot, aside, flush=False)
                    drawn = to_send(aside.name, aside.read_bytes())
                listed = to_send("detections.json", given.to_json().encode())
            return drawn, given.words(), given.rows(), gr.DownloadButton(value=listed, interactive=True), given.memory

        def explain(
            upload: Upload | None, name: str, least: float, kept: list[str] | None, edge: int, chosen: int | None
        ) -> tuple[Any, ...]:
            """See what the attentions do to a picture, and what made one object: panels, and a page with all."""
            if upload is None:
                raise page_error("there is no picture: upload one")
            with _one_line_errors():
                wish = Wish(name, least, edge or None, tuple(kept) if kept else None)
                shown = reasons(loaded, upload, wish, chosen or None)
                made = to_send("explain.html", shown.page.encode())
            return shown.panels, gr.DownloadButton(value=made, interactive=True)

        def choose_model(name: str) -> Any:
            """The classes of a model, to choose from."""
            with _one_line_errors():
                return gr.Dropdown(choices=list(loaded.get(name).labels), value=[])

        inputs = [picture, model, slider, classes, size, memory]
        outputs = [annotated, found, table, download, memory]
        limits: dict[str, Any] = {"concurrency_limit": _AT_A_TIME, "concurrency_id": "detector"}
        gr.on(
            [picture.change, slider.release, classes.input, size.input],
            detect,
            inputs,
            outputs,
            trigger_mode="always_last",
            **limits,
        )
        ask.click(explain, [*inputs[:-1], number], [panels, whole], **limits)
        chosen = model.input(choose_model, [model], [classes], **limits)
        chosen.success(detect, inputs, outputs, api_visibility="private", **limits)
        app.queue(max_size=_MOST_WAITING, default_concurrency_limit=_AT_A_TIME)
    return app


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Let the page show a user's mistake as one line."""
    try:
        yield
    except DyzooError as error:
        raise page_error(str(error)) from None
    except (MemoryError, RuntimeError) as error:
        full = full_memory(error)
        if full is None:
            raise
        raise page_error(f"{full} is full: choose a smaller size, or a smaller picture") from None
