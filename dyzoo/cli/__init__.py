"""The command `dyzoo`. Each module of this package is one command and imports what is heavy when it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from dyzoo._version import __version__
from dyzoo.cli.bench import OPTIONS_OF_ITS_OWN, bench
from dyzoo.cli.cache import cache
from dyzoo.cli.convert import convert
from dyzoo.cli.data import app as data
from dyzoo.cli.demo import demo
from dyzoo.cli.evaluate import evaluate
from dyzoo.cli.explain import explain
from dyzoo.cli.export import export
from dyzoo.cli.fetch import fetch
from dyzoo.cli.listing import list_models
from dyzoo.cli.predict import predict
from dyzoo.cli.push import push
from dyzoo.cli.serve import serve
from dyzoo.cli.terminal import complain, noted_warnings, prepare, say
from dyzoo.cli.train import train
from dyzoo.environment import ask_for_large_pages, is_debugging
from dyzoo.errors import DyzooError, TogetherError, full_memory

app = typer.Typer(
    name="dyzoo",
    add_completion=False,
    rich_markup_mode=None,  # plain help fits 80 columns
    pretty_exceptions_enable=False,
)
app.command()(predict)
app.command()(train)
app.command()(evaluate)
app.command("list")(list_models)
app.command()(fetch)
app.command()(cache)
app.command()(convert)
app.command()(push)
app.command()(explain)
app.command()(export)
app.command()(demo)
app.command()(serve)
app.add_typer(data, name="data")
app.command(context_settings=OPTIONS_OF_ITS_OWN)(bench)

_INTERRUPTED, _BROKEN_PIPE = 130, 141  # 128 + the signal's number, as a shell reports it


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"dyzoo {__version__}")
        raise typer.Exit


@app.callback()
def _dyzoo(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Find objects in pictures with Dynamic Head detectors, train them on your own, and evaluate them.

    \b
    Examples:
      dyzoo predict                          the embedded detector on a sample image
      dyzoo predict photos/ --out seen       every image of a folder
      dyzoo data check DIR                   what is suspicious in a dataset
      dyzoo train --data DIR --epochs 36     on COCO JSON, Pascal VOC or YOLO
      dyzoo evaluate --data DIR --model runs/dyhead_atss_resnet10t
      dyzoo predict --model mmdet_atss_r50.coco   as published, fetched once
      dyzoo convert FILE --from mmdet_atss_r50 --out DIR
      dyzoo push runs/mine me/cells          to the Hugging Face Hub
      dyzoo export runs/mine --out mine.onnx   for other runtimes
      dyzoo explain cells.jpg                why it finds what it finds
      dyzoo demo                             a page in the browser
      dyzoo demo --static page               a page that runs in the browser
      dyzoo serve --model runs/mine          answer HTTP requests
      dyzoo bench                            the attention chain's speed here
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave with its exit code; `arguments` default to those of the process."""
    ask_for_large_pages()
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run the command line and give its exit code.

    A user's mistake is one line on stderr, `error: ...`, and exit code 1 (2 for an option that is wrong). With the
    environment variable DYZOO_DEBUG set it is a traceback instead.
    """
    prepare()
    try:
        with noted_warnings():
            code = app(args=list(arguments) or ["--help"], prog_name="dyzoo", standalone_mode=False) or 0
        sys.stdout.flush()
        return int(code)
    except (KeyboardInterrupt, typer.Abort):
        return _INTERRUPTED
    except BrokenPipeError:
        _forget_output()
        return _BROKEN_PIPE
    except (DyzooError, OSError, typer.TyperException) as error:
        if is_debugging():
            raise
        if not isinstance(error.__cause__, TogetherError):  # the main process says it
            complain(_one_line(error))
        _flush()
        return getattr(error, "exit_code", 1)
    except (MemoryError, RuntimeError) as error:
        full = full_memory(error)
        if full is None or is_debugging():
            raise
        complain(f"{full} is full: lower --size or --batch-size")
        return 1


def _flush() -> None:
    """Write what is still to be written, if that is possible."""
    try:
        sys.stdout.flush()
    except OSError:
        _forget_output()


def _forget_output() -> None:
    """The reader has gone or the disk is full: what is buffered goes nowhere, silently, when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)  # that of the command whose option is wrong
        text = error.format_message().replace(": Value error, ", ": ").rstrip(".")  # pydantic's words before Typer's
        return text + (f" (see {context.command_path} --help)" if context is not None else "")
    # A line feed in one of our own messages is part of a name; others break their lines.
    return str(error) if isinstance(error, DyzooError) else " ".join(str(error).split())
