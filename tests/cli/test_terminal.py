"""Nothing that a stranger named reaches the terminal as it is."""

from __future__ import annotations

import ast
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from test_bad_input import write_coco

import dyzoo.cli
from dyzoo.hub.fetching import StaleCacheWarning
from dyzoo.training.processes import Processes
from tests.cli.cli_helpers import Cli

HOSTILE = "a\x1b[31mb\x07\u202ec\u2066d\u200fe\nf\udc80g\x9bh"
SPELT = r"a\x1b[31mb\x07\u202ec\u2066d\u200fe\nf\udc80g\x9bh"


@pytest.mark.parametrize("function", ["say", "note", "complain", "show"])
def test_whatever_a_terminal_would_obey_is_spelt_out(function: str, capfd: pytest.CaptureFixture[str]) -> None:
    getattr(dyzoo.cli.terminal, function)(HOSTILE)
    printed = "".join(capfd.readouterr())
    assert (SPELT.replace(r"\n", "\n") if function == "show" else SPELT) in printed


def test_own_warnings_are_notes_and_others_are_as_ever(capfd: pytest.CaptureFixture[str]) -> None:
    with dyzoo.cli.terminal.noted_warnings():
        warnings.warn(HOSTILE, StaleCacheWarning, stacklevel=1)
        with pytest.warns(DeprecationWarning, match="of another"):
            warnings.warn("of another", DeprecationWarning, stacklevel=1)
    assert capfd.readouterr().err == f"note: {SPELT}\n"


def test_training_spells_out_names(capfd: pytest.CaptureFixture[str]) -> None:
    Processes("cpu").console.print(f"classes {HOSTILE} [bold]x[/bold]")
    assert capfd.readouterr().out == f"classes {SPELT} [bold]x[/bold]\n"


def test_a_cell_of_a_table_is_no_markup(capfd: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    table = Table("name")
    table.add_row(dyzoo.cli.terminal.plain("[bold]x[/bold] [/] :tm: " + HOSTILE))
    dyzoo.cli.terminal.show_table(table)
    printed = capfd.readouterr().out
    assert "[bold]x[/bold] [/] :tm: " + SPELT in printed


def test_only_one_module_prints() -> None:
    for path in Path(dyzoo.cli.__file__).parent.glob("*.py"):
        names = {
            node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call)
        }
        assert path.name == "terminal.py" or not names & {"print", "Console", "echo", "secho"}, path


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", HOSTILE[:10]),
        ("predict", "--model", HOSTILE),
        ("predict", "--device", HOSTILE),
        ("predict", "--size", HOSTILE),
        ("predict", "--" + HOSTILE),
        ("evaluate", "--data", HOSTILE),
        ("data", "check", HOSTILE),
        ("data", "convert", HOSTILE, "out"),
        ("convert", HOSTILE, "--from", "official_atss_r50", "--out", "x"),
        ("convert", "x", "--from", HOSTILE, "--out", "y"),
        ("push", HOSTILE, "me/x"),
        ("list", HOSTILE),
        ("train", "--data", HOSTILE, "--no-pretrained-backbone"),
        (HOSTILE,),
    ],
    ids=lambda arguments: " ".join(arguments)[:14].encode("ascii", "ignore").decode().replace("\x1b", ""),
)
def test_hostile_arguments_are_one_line(cli: Cli, arguments: tuple[str, ...]) -> None:
    outcome = cli(*arguments)
    assert outcome.code in (1, 2)
    assert outcome.err.startswith("error: ")
    assert outcome.err.endswith("\n")
    assert outcome.err[:-1].isprintable(), outcome.err


def test_hostile_class_names_of_a_dataset_are_spelt_out(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    name = HOSTILE.replace("\udc80", "")  # half a character is refused in every class name
    folder = write_coco(tmp_path / "coco", categories=[{"id": 7, "name": name}])
    for outcome in (cli("evaluate", "--data", folder, "-m", tiny_model), cli("data", "check", folder)):
        assert outcome.code == 0, outcome.err
        assert all(line.isprintable() for line in (outcome.out + outcome.err).split("\n"))


def test_a_full_standard_output_is_one_line() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "dyzoo", "--version"]
        process = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert process.returncode == 1
    assert process.stderr == "error: [Errno 28] No space left on device\n"
