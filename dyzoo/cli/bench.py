"""`dyzoo bench`: the speed of the attention chain on this machine."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import typer

from dyzoo.errors import DyzooError

NAME = "dyzoo.benchmarks"  # what an installed wheel has it as
OPTIONS_OF_ITS_OWN = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


def bench(context: typer.Context) -> None:
    """Time the attention chain against its alternatives.

    Everything behind `bench` goes to the benchmarks' own command line: `dyzoo bench --help`.
    """
    _load()
    code = import_module(f"{NAME}.command").app(args=context.args, prog_name="dyzoo bench", standalone_mode=False)
    raise typer.Exit(int(code or 0))


def _load() -> None:
    """Make `dyzoo.benchmarks` importable: part of a wheel, but at the top of a source checkout."""
    if NAME in sys.modules or find_spec(NAME):
        return
    source = Path(__file__).parents[2] / "benchmarks" / "__init__.py"
    spec = spec_from_file_location(NAME, source, submodule_search_locations=[str(source.parent)])
    if not source.is_file() or spec is None or spec.loader is None:
        raise DyzooError(f"{source.parent} is not there: install dyzoo again, or run from a whole checkout")
    module = module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)
