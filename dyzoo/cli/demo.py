"""`dyzoo demo`: a page in the browser on which a detector shows what it finds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dyzoo.cli.options import DeviceOption, choose_device, load_detector
from dyzoo.cli.terminal import megabytes, note, progress_bar, say
from dyzoo.config.prediction import PredictConfig

_SERVED, _WRITTEN = "a page that is served", "a page that is written"


def demo(
    context: typer.Context,
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
    static: Annotated[
        Path | None,
        typer.Option("--static", metavar="DIR", help="Write a page that runs in the browser alone, to a new folder."),
    ] = None,
    title: Annotated[
        str | None,
        typer.Option("--title", metavar="TEXT", help="Heading, with --static.", show_default="the model's name"),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option("--image", metavar="FILE", help="Sample picture, with --static.", show_default="the package's"),
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(
            "--license", metavar="ID", help="Of the weights, with --static: mit, ...", show_default="as their card says"
        ),
    ] = None,
) -> None:
    """Serve a page on which detectors look for objects in pictures, until Ctrl-C, or write one that needs no server.

    Pictures are uploaded, dropped, pasted or taken by a camera. Served, the page needs `pip install 'dyzoo[demo]'`;
    threshold, classes and size are chosen on it, and nothing leaves this machine without --share. With --static (and
    `pip install 'dyzoo[onnx]'`) it is a folder for any server for files, or a static Space of the Hugging Face Hub,
    and the detector runs in its visitor's browser.

    \b
    Examples:
      dyzoo demo
      dyzoo demo --model runs/mine --model runs/other --device cuda
      dyzoo demo --host 0.0.0.0 --port 8000
      dyzoo demo --static page --model runs/mine --title 'Blood cells'
      dyzoo demo --static page --model mine.onnx
    """
    if static is None:
        _refuse(context, ("title", "image", "license"), _SERVED)
        _serve(model or [], host, port, threshold, device, share)
    else:
        _refuse(context, ("host", "port", "threshold", "device", "share"), _WRITTEN)
        _write(static, model or [], title, image, license)


def _refuse(context: typer.Context, names: tuple[str, ...], kind: str) -> None:
    """Refuse options that this kind of page has no use for."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            raise typer.BadParameter(f"{kind} has no use for it", param_hint=f"--{name}")


def _serve(models: list[str], host: str, port: int | None, threshold: float, device: str | None, share: bool) -> None:
    from dyzoo.demo.installed import check_gradio

    check_gradio()
    from dyzoo.demo.app import create_app
    from dyzoo.demo.serving import start

    chosen = None if device is None else choose_device(device)
    app = create_app(models, device=chosen, threshold=threshold)
    say(f"open {start(app, host, port, share=share)} in a browser; Ctrl-C ends it")
    app.block_thread()


def _write(folder: Path, models: list[str], title: str | None, image: Path | None, license: str | None) -> None:
    from dyzoo.demo.static_page import catalogue_licence, write_static_page
    from dyzoo.errors import ExportError
    from dyzoo.files import check_is_new
    from dyzoo.zoo.names import DEFAULT_MODEL

    if len(models) > 1:
        raise typer.BadParameter(f"{_WRITTEN} has one detector, this names {len(models)}", param_hint="--model")
    check_is_new(folder, ExportError)
    name = models[0] if models else DEFAULT_MODEL
    detector = load_detector(name, "cpu")
    note("exporting takes half a minute to two")
    with progress_bar() as bar:
        bar.add_task("writing the page", total=None)
        write_static_page(
            detector,
            folder,
            title=title or Path(name).name,
            license=license or catalogue_licence(name),
            sample=image,
        )
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    say(f"{megabytes(size)} -> {folder}")
    say(f"try it: python -m http.server --directory {folder}, then open http://localhost:8000")
