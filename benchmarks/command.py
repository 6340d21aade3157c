"""The command line: `python -m benchmarks` and `dyzoo bench`. Imports what is heavy when it runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .command_ablation import ablation
from .command_cpu import OutOption, cpu, growth, runtimes
from .options import CASE_NAMES, device_of, size_of

FileArgument = Annotated[Path, typer.Argument(metavar="CSV", help="Rows that a run has written.")]


class _RunByDefault(TyperGroup):
    """A group whose command `run` needs no naming."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_RunByDefault, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback()
def _benchmarks() -> None:
    """Time the attention chain against its alternatives, taking turns in one run.

    Without a command it is `run`: see `run --help` for what can be chosen.

    \b
    Examples:
      dyzoo bench                          what this machine can show
      dyzoo bench head --size 800x1344 --batch 2 --dtype bf16 --pass forward
      dyzoo bench --provider ours --provider official-float32 --no-save
      dyzoo bench cpu --load none,full     beside other runtimes, idle and busy
      dyzoo bench ablation --data DIR      which attention adds how much AP
      dyzoo bench plot nvidia-h100.csv     draw the rows again
    """


@app.command()
def run(
    cases: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CASE", help=f"Some of {', '.join(CASE_NAMES)}; all on a GPU, deform_conv and head on a CPU."
        ),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="HxW", help="Image size, repeatable.", show_default="800x1344 on a GPU, else 640x640"),
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(metavar="N", min=1, help="Images at a time, repeatable.", show_default="1")
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(
            metavar="T",
            help="float32, tf32, float16 or bfloat16 (fp32, fp16, bf16), repeatable.",
            show_default="bfloat16 on a GPU, else float32",
        ),
    ] = None,
    pass_: Annotated[
        list[str] | None,
        typer.Option("--pass", metavar="P", help="forward or training, repeatable.", show_default="both"),
    ] = None,
    provider: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Who takes part, repeatable; a wrong one lists them.", show_default="all"),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="D", help="cpu, cuda, cuda:1.", show_default="a GPU if there is one")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Rounds of taking turns.", show_default="10, on a CPU 3")
    ] = None,
    compile_: Annotated[
        bool | None,
        typer.Option("--compile/--no-compile", help="Providers under torch.compile.", show_default="on a GPU"),
    ] = None,
    out: OutOption = None,
    save: Annotated[bool, typer.Option(help="Append the rows to <device>.csv and plot that.")] = True,
) -> None:
    """Measure, print tables, append the rows to <device>.csv and plot them.

    A provider is timed only after its outputs and gradients agree with the others'. One that is not installed, cannot
    run here or computes something else is listed with the reason.

    \b
    Examples:
      dyzoo bench run deform_conv --rounds 30
      dyzoo bench run head --dtype bf16 --dtype float32 --batch 8
    """
    from . import session

    code = session.run(cases, size, batch, dtype, pass_, provider, device, rounds, compile_, out, save)
    if code:
        raise typer.Exit(code)


@app.command()
def steps(
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Image size.", show_default="800x1344 on a GPU, else 640x640")
    ] = None,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Images at a time.")] = 1,
    dtype: Annotated[
        str | None, typer.Option(metavar="T", help="As for run.", show_default="bfloat16 on a GPU, else float32")
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="D", help="cpu, cuda, cuda:1.", show_default="a GPU if there is one")
    ] = None,
    rounds: Annotated[int, typer.Option(metavar="N", min=1, help="Rounds.")] = 5,
) -> None:
    """Time the steps of one block: offsets, deform_conv, attention and mix, forward and backward.

    \b
    Examples:
      dyzoo bench steps --size 320x320
    """
    from . import session

    print(session.steps(size, batch, dtype, device, rounds))


app.command()(runtimes)
app.command()(cpu)
app.command()(growth)
app.command()(ablation)


@app.command()
def table(path: FileArgument) -> None:
    """Print the newest rows of a file as Markdown tables, those of `cpu` and `growth` in tables of their own.

    \b
    Examples:
      dyzoo bench table nvidia-h100.csv
    """
    from . import session

    print(session.table(path))


@app.command()
def plot(
    path: FileArgument,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="PNG", show_default="beside the CSV", help="File to write.")
    ] = None,
    case: Annotated[list[str] | None, typer.Option(metavar="CASE", help="Only these, repeatable.")] = None,
    dtype: Annotated[list[str] | None, typer.Option(metavar="T", help="Only these, repeatable.")] = None,
    batch: Annotated[list[int] | None, typer.Option(metavar="N", help="Only these, repeatable.")] = None,
    load: Annotated[
        list[str] | None, typer.Option(metavar="L", help="Only rows of cpu under these, repeatable.")
    ] = None,
) -> None:
    """Draw the newest rows of a file as a PNG.

    \b
    Examples:
      dyzoo bench plot nvidia-h100.csv --case head --dtype bfloat16
    """
    from . import session

    print(session.plot(path, out, case, dtype, batch, load))


@app.command()
def predict(
    card: Annotated[
        list[str] | None, typer.Option(metavar="CARD", help="H100, H200, A100, L4, repeatable.", show_default="all")
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(metavar="T", help="bfloat16, float16 or float32, repeatable.", show_default="bfloat16, float32"),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Compiling processes.", show_default="all cores")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="CSV", help="File to write.", show_default="benchmarks/predicted.csv of a checkout"
        ),
    ] = None,
) -> None:
    """Predict the time of every launch of a block on cards that need not be here, with no GPU.

    Measured rows of these cards are shown beside their predictions. `python -m dyhead_kernels.static --model` shows
    what they are made of.

    \b
    Examples:
      dyzoo bench predict --card H100 --dtype bfloat16 --out predicted.csv
    """
    from . import session

    print(session.predict(card, dtype, out, workers))


@app.command()
def tune(
    kernels: Annotated[
        list[str] | None, typer.Argument(metavar="KERNEL", help="Names as in configs/default.json; all without one.")
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(
            metavar="T",
            help="bfloat16 or float16 for the half-precision entries, float32 or tf32 for the others.",
            show_default="bfloat16, float32",
        ),
    ] = None,
    size: Annotated[str, typer.Option(metavar="HxW", help="Image size.")] = "800x1344",
    channels: Annotated[int, typer.Option(metavar="C", min=16, help="Channels of a level.")] = 256,
    seconds: Annotated[float, typer.Option(metavar="S", min=1, help="Time to spend, roughly.")] = 480.0,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Compiling processes.", show_default="all cores but one")
    ] = None,
    device: Annotated[str | None, typer.Option(metavar="D", help="cuda, cuda:1.", show_default="the first GPU")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Folder.", show_default="where the kernels look for tables"),
    ] = None,
) -> None:
    """Find the kernels' launch parameters for this GPU, and write them to <gpu>.json.

    Only kernels and dtypes that were tuned change in a table that is there. The table is written after each kernel.

    \b
    Examples:
      dyzoo bench tune
      dyzoo bench tune deform_conv_forward --dtype bfloat16 --seconds 60
    """
    from .tune import check_device

    place = device_of(device)
    check_device(place)
    from .tune.run import run as run_tuning

    run_tuning(kernels, size_of(size), channels, dtype or ["bfloat16", "float32"], seconds, workers, place, out)


@app.command("gpu-report")
def gpu_report(
    minutes: Annotated[float, typer.Option(metavar="M", min=0.01, help="Time to spend, all steps together.")] = 25.0,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of rows, logs and summary.md.")
    ] = Path("gpu-report"),
    size: Annotated[str, typer.Option(metavar="HxW", help="Image size.")] = "800x1344",
    device: Annotated[
        str | None, typer.Option(metavar="D", help="cuda, cuda:1, or cpu for a trial.", show_default="the first GPU")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and run nothing.")] = False,
) -> None:
    """Find out all about the kernels on this GPU that a given time allows.

    Tests, a compiled block, the head against its floor, every launch beside its
    prediction, tuning, the sanitizer: each step in a process of its own with its
    share of the time. summary.md is written after every step. Called again with
    the same folder, the report goes on with what is missing.

    \b
    Examples:
      dyzoo bench gpu-report --minutes 25 --out report
      dyzoo bench gpu-report --dry-run
    """
    from .gpu_report.run import run as run_report

    if code := run_report(minutes, out, device, size, dry_run):
        raise typer.Exit(code)


@app.command("gpu-report-step", hidden=True)
def gpu_report_step(
    name: Annotated[str, typer.Argument(metavar="STEP", help="machine or launches.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the report.")],
    size: Annotated[str, typer.Option(metavar="HxW", help="Image size.")] = "800x1344",
    device: Annotated[str | None, typer.Option(metavar="D", help="cpu, cuda, cuda:1.")] = None,
) -> None:
    """Run a step of gpu-report that no other command has."""
    from .gpu_report.run import step

    if code := step(name, out, device, size):
        raise typer.Exit(code)


def main(arguments: Sequence[str] | None = None, prog_name: str = "python -m benchmarks") -> int:
    """Run the command line and give its exit code; a user's mistake is one line on stderr."""
    from dyzoo.errors import DyzooError

    try:
        code = app(
            args=list(sys.argv[1:] if arguments is None else arguments), prog_name=prog_name, standalone_mode=False
        )
        return int(code or 0)
    except KeyboardInterrupt:
        return 130
    except (DyzooError, OSError, typer.TyperException) as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return getattr(error, "exit_code", 1)


def _one_line(error: Exception) -> str:
    if isinstance(error, typer.TyperException):
        return error.format_message()
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())
