"""Commands that measure on a CPU alone. Imports what is heavy when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import CPU_CASES, GROWTH_AXES

OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="DIR",
        help="Folder of <device>.csv and its plot.",
        show_default="benchmarks/results of a checkout, else the current folder",
    ),
]
SaveOption = Annotated[bool, typer.Option(help="Append the rows to <device>.csv.")]
TimeoutOption = Annotated[float, typer.Option(metavar="S", min=1, help="Seconds that building or one turn may take.")]


def runtimes(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="As for `dyzoo predict --model`.", show_default="the embedded one"),
    ] = None,
    exported: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="A file that `dyzoo export` wrote of it (.onnx, .xml), repeatable.",
            show_default="the model is exported",
        ),
    ] = None,
    size: Annotated[str, typer.Option(metavar="HxW", help="Image size.")] = "320x480",
    rounds: Annotated[int, typer.Option(metavar="N", min=1, help="Rounds of taking turns.")] = 5,
    compile_: Annotated[bool, typer.Option("--compile/--no-compile", help="PyTorch under torch.compile too.")] = True,
) -> None:
    """Time a detector on the CPU in PyTorch, optimised, compiled, in onnxruntime and in OpenVINO.

    From a picture's pixels to detections. A runtime that is not installed or fails is listed with the reason. Nothing
    is saved.

    \b
    Examples:
      dyzoo bench runtimes --no-compile
      dyzoo bench runtimes runs/mine --exported mine.onnx --exported mine.xml
    """
    from . import session

    print(session.runtimes(model, exported or [], size, rounds, compile_))


def cpu(
    cases: Annotated[
        list[str] | None, typer.Argument(metavar="CASE", help=f"Some of {', '.join(CPU_CASES)}; all without one.")
    ] = None,
    load: Annotated[
        str,
        typer.Option(
            metavar="L,L",
            help="none, full (a busy process on each core), pool (onnxruntime's threads spin in each process).",
        ),
    ] = "none,full",
    threads: Annotated[str, typer.Option(metavar="N,N", help="Numbers, or all for every core.")] = "1,all",
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Image size.", show_default="640x640, quick 64x64")
    ] = None,
    pass_: Annotated[
        list[str] | None,
        typer.Option(
            "--pass",
            metavar="P",
            help="forward or training, repeatable.",
            show_default="both, of detectors forward",
        ),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Rounds of taking turns.", show_default="5, quick 1")
    ] = None,
    onnx: Annotated[bool, typer.Option(help="onnxruntime on an export of the same.")] = True,
    quick: Annotated[bool, typer.Option("--quick", help="Tiny sizes: whether all of it runs here.")] = False,
    timeout: TimeoutOption = 600.0,
    out: OutOption = None,
    save: SaveOption = True,
) -> None:
    """Compare with other runtimes and detectors on a CPU, idle and busy.

    Each measurement has a process of its own, and the processes take turns: medians, and how much memory became
    resident. Ours stands beside onnxruntime, torchvision's operator and dense 3x3 convolutions, the floor; a detector
    of ours also optimised, and the case detector beside torchvision's RetinaNet and FCOS and, where it is installed,
    mmdetection's DyHead.

    \b
    Examples:
      dyzoo bench cpu --load none,full
      dyzoo bench cpu deform_conv head --threads 1,4 --load pool
      dyzoo bench cpu --quick --no-save
    """
    from .apart import session

    code = session.run(cases, load, threads, size, pass_, rounds, onnx, quick, timeout, out, save)
    if code:
        raise typer.Exit(code)


def growth(
    axes: Annotated[
        list[str] | None, typer.Argument(metavar="AXIS", help=f"Some of {', '.join(GROWTH_AXES)}; all without one.")
    ] = None,
    pass_: Annotated[
        list[str] | None,
        typer.Option("--pass", metavar="P", help="forward or training, repeatable.", show_default="both"),
    ] = None,
    rounds: Annotated[int, typer.Option(metavar="N", min=1, help="Rounds of taking turns.")] = 3,
    small: Annotated[bool, typer.Option("--small", help="Tiny sizes: whether all of it runs here.")] = False,
    timeout: TimeoutOption = 600.0,
    out: OutOption = None,
    save: SaveOption = True,
) -> None:
    """Measure on a CPU how time and memory grow with the input and the model.

    Pixels, batch, channels and blocks are those of a head, classes those of a detector. Prints the fitted exponents
    beside those of the operations counted and of theory, and draws a plot of each axis.

    \b
    Examples:
      dyzoo bench growth
      dyzoo bench growth pixels channels --pass forward
    """
    from .growth import session

    session.run(axes, pass_, rounds, small, timeout, out, save)
