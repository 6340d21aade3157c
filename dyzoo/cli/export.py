"""`dyzoo export`: a detector for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dyzoo.cli.options import load_detector
from dyzoo.cli.terminal import megabytes, note, progress_bar, say


def export(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="As for --model of `dyzoo predict`: a name, a folder, a repository.",
            show_default="the embedded one",
        ),
    ] = None,
    to: Annotated[
        Literal["onnx", "openvino", "torch-export", "aoti"],
        typer.Option("--to", help="ONNX, OpenVINO's .xml and .bin, or torch.export's or AOTInductor's .pt2."),
    ] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Where it goes.", show_default="ARCHITECTURE and the suffix"),
    ] = None,
    decode: Annotated[
        bool, typer.Option("--decode/--no-decode", help="Boxes, scores and labels, or the raw maps of the head.")
    ] = True,
    preprocess: Annotated[
        bool,
        typer.Option("--preprocess/--no-preprocess", help="RGB pictures of any size, or normalised, padded batches."),
    ] = True,
    input_type: Annotated[
        Literal["uint8", "float32"],
        typer.Option("--input-type", help="Pictures' pixels: 0..255, or 0..1."),
    ] = "uint8",
    deform_conv: Annotated[
        Literal["node", "grid-sample"] | None,
        typer.Option(
            "--deform-conv",
            help="The format's own operator, or GridSample for runtimes without it (OpenVINO); slower.",
            show_default="node, for openvino grid-sample",
        ),
    ] = None,
    precision: Annotated[
        Literal["fp32", "fp16", "int8"],
        typer.Option("--precision", help="Half the size with fp16; a third of it, and faster on CPUs, with int8."),
    ] = "fp32",
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            metavar="DIR",
            help="With int8: pictures like those the detector is for, a folder, or a dataset with a split train.",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="HxW", help="With aoti: the one size of what goes in, such as 320x416."),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option("--image", metavar="FILE", help="Picture to compare on.", show_default="a sample image"),
    ] = None,
) -> None:
    """Write a detector for other runtimes, compared with the detector before it is done.

    Needs `pip install 'dyzoo[onnx]'`, for openvino 'dyzoo[onnx,openvino]', for aoti a C++ compiler. The file takes
    batches of any number and size (aoti of one size), has no operator of dyzoo's own, and says in its metadata what it
    is. A file whose answers differ is not written.

    \b
    Examples:
      dyzoo export --out cells.onnx
      dyzoo export runs/mine --out mine.onnx --deform-conv grid-sample
      dyzoo export runs/mine --out half.onnx --precision fp16
      dyzoo export runs/mine --out small.onnx --precision int8 --calibration DIR
      dyzoo export runs/mine --to openvino --out mine.xml
      dyzoo export runs/mine --to aoti --size 320x416 --out mine.pt2
      dyzoo export runs/mine --no-decode --no-preprocess --out maps.onnx
    """
    from dyzoo.export.exporting import check_before_loading, export_detector
    from dyzoo.export.options import SUFFIXES, ExportOptions
    from dyzoo.zoo.names import DEFAULT_MODEL

    options = ExportOptions(
        decode,
        preprocess,
        input_type,
        deform_conv,  # type: ignore[arg-type] # None is resolved
        precision,
        calibration,
        to,
        _parse_sides(size),
    )
    check_before_loading(options, out)
    detector = load_detector(model, "cpu")
    path = out or Path(f"{detector.config.architecture}{SUFFIXES[to]}")
    note("compiling takes minutes" if to == "aoti" else "tracing takes half a minute to two")
    with progress_bar() as bar:
        bar.add_task(f"exporting to {to}", total=None)
        report = export_detector(detector, path, options, image)
    for line in report.lines():
        say(line)
    file_bytes = path.stat().st_size + (path.with_suffix(".bin").stat().st_size if to == "openvino" else 0)
    say(f"{megabytes(file_bytes)} after {report.seconds:.0f} s -> {path}")
    if precision == "int8":
        note(f"what 8 bits cost: dyzoo evaluate --data DIR --model {path} --against {model or DEFAULT_MODEL}")


def _parse_sides(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isascii() and side.isdecimal() and len(side) < 6 for side in sides):
        raise typer.BadParameter(f"{text[:20]!r} is no height and width, such as 320x416", param_hint="--size")
    return int(sides[0]), int(sides[1])
