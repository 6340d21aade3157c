"""`dyzoo demo`: a page in the browser on which a detector shows what it finds."""

from __future__ import annotations

from typing import Annotated

import typer

from dyzoo.cli.options import DeviceOption, choose_device
from dyzoo.cli.terminal import say
from dyzoo.config.prediction import PredictConfig


def demo(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="M",
            help="As for `dyzoo predict`, to choose from besides the embedded one and those of `dyzoo cache`; may be "
            "given several times, the page begins with the first.",
            show_default="the embedded one",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Whom to serve: 0.0.0.0 serves the whole network.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option("--port", metavar="N", min=1, max=65535, help="Port.", show_default="the first free from 7860"),
    ] = None,
    threshold: Annotated[
        float,
        typer.Option("--threshold", "-t", metavar="X", min=0, max=1, help="Where the slider for the scores begins."),
    ] = PredictConfig.threshold,  # type: ignore[assignment] # which is a number by default
    device: DeviceOption = None,
    share: Annotated[
        bool, typer.Option("--share", help="Make a public address, too: all pictures go through Gradio's servers.")
    ] = False,
) -> None:
    """Serve a page on which detectors look for objects in pictures, until Ctrl-C.

    Needs `pip install 'dyzoo[demo]'`. Pictures are uploaded, dropped, pasted or taken by a camera; threshold, classes
    and size are chosen on the page, and detections are downloaded as JSON. Nothing leaves this machine without --share.

    \b
    Examples:
      dyzoo demo
      dyzoo demo --model runs/mine --model runs/other --device cuda
      dyzoo demo --host 0.0.0.0 --port 8000
    """
    from dyzoo.demo.installed import check_gradio

    check_gradio()
    from dyzoo.demo.app import create_app
    from dyzoo.demo.serving import start

    chosen = None if device is None else choose_device(device)
    app = create_app(model or (), device=chosen, threshold=threshold)
    say(f"open {start(app, host, port, share=share)} in a browser; Ctrl-C ends it")
    app.block_thread()
