"""`dyzoo demo`: a detector for people to try."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dyzoo.cli.options import ModelOption, load_detector
from dyzoo.cli.terminal import megabytes, note, progress_bar, say


def demo(
    static: Annotated[
        Path | None,
        typer.Option("--static", metavar="DIR", help="New folder for a page that runs in the browser alone."),
    ] = None,
    model: ModelOption = None,
    title: Annotated[
        str | None,
        typer.Option("--title", metavar="TEXT", help="Its heading.", show_default="the model's name"),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option("--image", metavar="FILE", help="The page's sample picture.", show_default="a sample image"),
    ] = None,
    license: Annotated[
        str | None,
        typer.Option("--license", metavar="ID", help="Of the weights: mit, ...", show_default="what their card says"),
    ] = None,
) -> None:
    """Write a page that runs a detector in its visitor's browser: pictures and the camera, nothing is sent anywhere.

    Needs `pip install 'dyzoo[onnx]'`. Any server for files will do, and the folder is ready for a static Space of the
    Hugging Face Hub.

    \b
    Examples:
      dyzoo demo --static page
      dyzoo demo --static page --model runs/mine --title 'Blood cells'
      dyzoo demo --static page --model mine.onnx
    """
    if static is None:
        raise typer.BadParameter("a folder for the page is needed", param_hint="--static")
    from dyzoo.demo.static_page import catalogue_licence, write_static_page
    from dyzoo.errors import ExportError
    from dyzoo.files import check_is_new
    from dyzoo.zoo.names import DEFAULT_MODEL

    check_is_new(static, ExportError)
    name = model or DEFAULT_MODEL
    detector = load_detector(model, "cpu")
    note("exporting takes half a minute to two")
    with progress_bar() as bar:
        bar.add_task("writing the page", total=None)
        write_static_page(
            detector,
            static,
            title=title or Path(name).name,
            license=license or catalogue_licence(name),
            sample=image,
        )
    size = sum(path.stat().st_size for path in static.rglob("*") if path.is_file())
    say(f"{megabytes(size)} -> {static}")
    say(f"try it: python -m http.server --directory {static}, then open http://localhost:8000")
