"""Exponents of time and memory against sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import rows as results
from benchmarks.apart.job import Job
from benchmarks.apart.processes import Worker
from benchmarks.command import main
from benchmarks.growth.points import FULL, SMALL, THEORY, Ladder, as_growth, axis_of, case_of, size_of
from benchmarks.growth.table import curves, exponent, growth_table
from benchmarks.options import GROWTH_AXES, cores
from tests.benchmarks.scripted_worker import script

MEASURED = results.Row(
    *("head", "forward", "1x32x32px", "float32", "dyhead_kernels"),
    *(1.0, 1.0, 1.0, None, None, None, "Some CPU", 1, "2.0", "", "abc", "none"),
)


def rows_of(axis: str, pass_: str = "forward", ladder: Ladder = FULL) -> list[results.Row]:
    jobs = [Job(case_of(axis), pass_, "ours", 1, sizes) for sizes in ladder.sizes(axis)]
    return [as_growth(job, replace(MEASURED, shape=job.setup.shape, pass_=pass_), axis) for job in jobs]


@pytest.mark.parametrize("power", [0, 1, 2])
def test_the_exponent_of_a_power_is_found(power: int) -> None:
    sizes = [1, 2, 4, 10]
    assert exponent(sizes, [3.0 * size**power for size in sizes]) == pytest.approx(power, abs=1e-9)


def test_values_that_have_no_logarithm_are_left_out() -> None:
    assert exponent([1, 2, 4], [None, 2.0, 4.0]) == pytest.approx(1)
    assert exponent([1, 2, 4], [0.0, 2.0, None]) is None
    assert exponent([2, 2], [1.0, 2.0]) is None


@pytest.mark.parametrize("ladder", [FULL, SMALL])
def test_every_axis_has_sizes_that_its_rows_say(ladder: Ladder) -> None:
    assert ladder.steps.keys() == THEORY.keys() == set(GROWTH_AXES)
    for axis, steps in ladder.steps.items():
        rows = rows_of(axis, ladder=ladder)
        assert {axis_of(row) for row in rows} == {axis}
        assert [size_of(row) for row in rows] == [step**2 if axis == "pixels" else step for step in steps]
        assert len({row.key for row in rows}) == len(steps)


def test_rows_of_other_commands_belong_to_no_axis() -> None:
    assert axis_of(MEASURED) is None
    assert axis_of(replace(MEASURED, op="growth by pixels")) is None
    assert curves([MEASURED, replace(MEASURED, op="growth by feet", shape="1x8x8px, 2 classes")]) == {}


def test_the_table_has_the_measured_exponent_beside_that_of_theory() -> None:
    rows = [
        replace(row, p50_ms=float(size_of(row) or 0) ** 2, peak_mib=5.0, tflop_per_s=0.5) for row in rows_of("channels")
    ]
    assert growth_table(rows).splitlines()[2:] == ["| channels | forward | 1 | 32..512 | 2.00 | 2.00 | 2 | 0.00 | 1 |"]


def test_the_command_measures_prints_keeps_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    script(monkeypatch, lambda job: "crash" if job.sizes.batch == 2 else "good")
    assert main(["growth", "--small", "--out", str(tmp_path), "--rounds", "1"]) == 0
    printed = capfd.readouterr().out
    (path,) = tmp_path.glob("*.csv")
    rows = results.read(path)
    assert growth_table(rows) in printed
    for axis in GROWTH_AXES:
        power = 2 if axis == "channels" else 1
        fitted = "" if axis == "batch" else f"{power}.00"
        for pass_ in ("forward", "training step"):
            line = next(line for line in printed.splitlines() if line.startswith(f"| {axis} | {pass_} | {cores()} |"))
            cells = [cell.strip() for cell in line.split("|")[1:-1]]
            assert (cells[4], cells[5], cells[7]) == (fitted, fitted, fitted)
        picture = path.with_name(f"{path.stem}-growth-{axis}.png")
        assert picture.read_bytes().startswith(b"\x89PNG")
    assert "- **dyhead_kernels**: the process crashed: the last words" in printed
    assert main(["table", str(path)]) == 0
    assert growth_table(rows) in capfd.readouterr().out


def test_mistakes_are_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["growth", "weight"]) == 2
    error = capfd.readouterr().err
    assert "'weight' is none of pixels, batch, channels, blocks, classes" in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_a_step_of_a_detector_with_other_classes_runs() -> None:
    (sizes, _) = SMALL.sizes("classes")
    with Worker(Job("detector", "training step", "ours", 1, sizes), 300) as worker:
        assert worker.wait_until_ready()["flop"] > 0
        assert worker.turn(1)[0] > 0
