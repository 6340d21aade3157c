"""`dyzoo bench` and `python -m benchmarks`."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from benchmarks import rows as results
from benchmarks.command import main
from benchmarks.machine import machine
from benchmarks.providers import BASELINE
from dyzoo.cli import run

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Path:
    """An empty current folder, and a machine whose peaks are quickly found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DYZOO_DEBUG", raising=False)
    assert run(["bench", "--help"]) == 0  # loads the command's own copy of the package
    peaks = import_module("dyzoo.benchmarks.machine")
    monkeypatch.setitem(peaks.PRODUCT_SIDE, "cpu", 64)
    monkeypatch.setitem(peaks.COPY_BYTES, "cpu", 2**16)
    capfd.readouterr()
    return tmp_path


BRIEF = ("--size", "32x32", "--rounds", "1", "--device", "cpu")


def test_the_command_measures_keeps_and_shows(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    chosen = ("--provider", "ours", "--provider", "official-float32", "--provider", "ours-graph")
    assert run(["bench", "convolution", *BRIEF, "--pass", "forward", *chosen, "--out", "kept"]) == 0
    printed = capfd.readouterr().out
    assert "| deform_conv, forward, 1x32x32px, float32 |" in printed
    assert "- **dyhead_kernels, CUDA graph**: CUDA graphs need a GPU" in printed
    assert "Nothing was timed on a GPU." in printed
    (path,) = (here / "kept").glob("*.csv")
    rows = results.read(path)
    assert [row.provider for row in rows] == ["torch", "torch", "dyhead_kernels", BASELINE]
    assert rows[0].tflop_per_s > 0
    assert rows[1].gb_per_s > 0
    assert {row.device for row in rows} == {machine(CPU).device}
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")

    assert run(["bench", "table", str(path)]) == 0
    assert "| dyhead_kernels |" in capfd.readouterr().out
    assert run(["bench", "plot", str(path), "--out", "other.png", "--case", "convolution", "--batch", "1"]) == 0
    assert (here / "other.png").is_file()
    assert run(["bench", "plot", str(path), "--case", "head"]) == 1
    assert capfd.readouterr().err == f"error: {path}: there is no row to plot: measure something first\n"


def test_a_run_that_is_not_to_be_saved_writes_nothing(here: Path) -> None:
    assert run(["bench", "convolution", *BRIEF, "--pass", "forward", "--provider", "dense", "--no-save"]) == 0
    assert list(here.iterdir()) == []


def test_a_file_with_other_columns_is_found_out_before_measuring(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = results.path_for(machine(CPU).device, here)
    path.write_text("something,else\n")
    assert run(["bench", "head", "--out", ".", "--device", "cpu", "--size", "4000x4000"]) == 1
    error = capfd.readouterr().err
    assert error.startswith(f"error: {path.name} has the columns something,else, expected op,")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["heads"], "'heads' is none of deform_conv, block, head, detector"),
        (["--size", "640"], "'640' is no HEIGHTxWIDTH in pixels"),
        (["--size", "9" * 5000 + "x640"], "is no HEIGHTxWIDTH in pixels"),
        (["--dtype", "int8"], "'int8' is none of float32, tf32"),
        (["--dtype", "tf32", "--device", "cpu"], "choose float32"),
        (["--pass", "backward"], "'backward' is none of forward, training"),
        (["--provider", "tensorflow"], "'tensorflow' is none of ours, "),
        (["--device", "gpu"], "'gpu' cannot be used"),
        (["--batch", "0"], "--batch"),
        (["--bogus"], "No such option: --bogus"),
        (["plot"], "Missing argument"),
    ],
)
def test_a_wrong_option_is_one_line(here: Path, capfd: pytest.CaptureFixture[str], arguments, message: str) -> None:
    assert run(["bench", *arguments]) == 2
    printed, error = capfd.readouterr()
    assert printed == ""
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_the_command_s_help_is_light() -> None:
    code = "import sys, dyzoo.cli\ncode = dyzoo.cli.run(['bench', '--help'])\nprint(code, 'torch' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.split()[-2:] == ["0", "False"]


def test_the_module_is_the_same_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "benchmarks", "head", "--bogus"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.startswith("error: No such option: --bogus")
    assert process.stderr.count("\n") == 1
    assert main(["table", str(tmp_path / "absent.csv")]) == 1
    assert capfd.readouterr().err == f"error: {tmp_path / 'absent.csv'}: No such file or directory\n"
    assert main(["table", str(next((ROOT / "benchmarks" / "results").glob("*.csv")))]) == 0
    assert "| dyhead_kernels |" in capfd.readouterr().out
