"""The search for launch parameters, on a tiny block whose kernels are interpreted, with times made up."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
import typer
from dyhead_kernels.dyhead_block.parameters import OFFSETS
from dyhead_kernels.launch import tuning
from dyhead_kernels.static import Job, Resources

from benchmarks.command import main
from benchmarks.tune import TuneError, compiling
from benchmarks.tune import run as command
from benchmarks.tune.compiling import Compiler
from benchmarks.tune.problem import OPERATIONS, Problem, Run, record, results
from benchmarks.tune.run import report, tune_all
from benchmarks.tune.search import MARGIN, MOST_SPILL_BYTES, NothingRunsError, Search, agree, beats
from benchmarks.tune.space import SPACES, Parameters, Space, first_candidates, later_candidates
from benchmarks.tune.table import merge

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPES = ((4, 5), (2, 3))
CHANNELS = 16
EVER = 1e6  # seconds: a busy machine must not matter
DEFAULT = tuning.load_table(tuning.DEFAULT)
KERNEL = "mix_forward"
TINY = Space({"BLOCK_P": (16, 32, 64), "num_warps": (2, 4)}, {"TILE_W": (4, 8)})
ROOT = Path(__file__).parents[2]


def resources(**changes: int) -> Resources:
    found = Resources(KERNEL, "float32", CHANNELS, "sm_90", 4, 100, 0, 1000, 4, "")
    return replace(found, **changes)


def everything_fits(jobs: Iterable[Job], deadline: float) -> dict[Job, Resources | str]:
    return dict.fromkeys(jobs, resources())


class FakeTimer:
    """Milliseconds by a rule on the launches' constants; remembers what was timed."""

    def __init__(self, rule: Callable[[dict], float]) -> None:
        self.rule = rule
        self.timed: list[dict] = []

    def __call__(self, runs: Sequence[Run], rounds: int) -> list[list[float]]:
        self.timed += [run.launches[0].constants for run in runs]
        return [[sum(self.rule(each.constants) for each in run.launches)] * rounds for run in runs]


@cache
def prepared() -> Problem:
    """A problem in which the steps before `KERNEL` are computed once."""
    problem = Problem(SHAPES, CHANNELS, torch.float32, DEVICE)
    results(OPERATIONS[KERNEL], problem)
    return problem


def searching(timer: FakeTimer, compile_: Callable = everything_fits, problem: Problem | None = None) -> Search:
    problem = problem or prepared()
    sketch = Problem(SHAPES, CHANNELS, problem.values.dtype, torch.device("meta"))
    warnings: list[str] = []
    search = Search(problem, sketch, "sm_90", 10_000, compile_, timer, warnings.append, str)
    search.warnings = warnings  # type: ignore[attr-defined]
    return search


@pytest.fixture
def default(monkeypatch: pytest.MonkeyPatch) -> Parameters:
    """A kernel's default, which has a few neighbours only."""
    monkeypatch.setitem(SPACES, KERNEL, TINY)
    return dict(DEFAULT[KERNEL].get("float32") or DEFAULT[KERNEL]["any"])


def test_the_fastest_wins_and_its_tiles_are_varied_last(default: Parameters) -> None:
    assert default["BLOCK_P"] != 64
    assert default["TILE_W"] != 4
    timer = FakeTimer(lambda has: 1 - 0.2 * (has["BLOCK_P"] == 64) - 0.1 * (has["TILE_W"] == 4))
    search = searching(timer)
    outcome = search.tune(KERNEL, [default], EVER)
    assert outcome.best["BLOCK_P"] == 64
    assert outcome.best["TILE_W"] == 4
    assert (outcome.default_ms, outcome.best_ms) == (1.0, pytest.approx(0.7))
    assert search.chosen == {KERNEL: {"float32": outcome.best}}
    assert search.warnings == []
    assert KERNEL in report([outcome])


@pytest.mark.parametrize("gain", [0.0, 0.5 * MARGIN])
def test_the_default_stays_unless_beaten_by_more_than_noise(default: Parameters, gain: float) -> None:
    search = searching(FakeTimer(lambda has: 1.0 if has["BLOCK_P"] == default["BLOCK_P"] else 1 - gain))
    outcome = search.tune(KERNEL, [default], EVER)
    assert (outcome.best, outcome.best_ms) == (default, 1.0)


@pytest.mark.parametrize(
    ("candidate_ms", "wins"),
    [([0.97] * 10, True), ([0.99] * 10, False), ([0.5] * 7 + [1.0] * 3, False), ([0.9] * 8 + [9.0] * 2, True)],
)
def test_a_candidate_must_win_most_rounds(candidate_ms: list[float], wins: bool) -> None:
    assert beats(candidate_ms, [1.0] * 10) is wins


@pytest.mark.parametrize("wrong", [lambda output: output * 1.05, lambda output: output.index_fill(1, _ROW, torch.nan)])
def test_a_wrong_result_is_refused(default: Parameters, monkeypatch: pytest.MonkeyPatch, wrong: Callable) -> None:
    right = OPERATIONS[KERNEL]

    def spoilt(problem: Problem) -> tuple[torch.Tensor, ...]:
        options = tuning.launch_parameters(KERNEL, problem.values.dtype, DEVICE)
        (output,) = right.run(problem)
        return (wrong(output) if options["BLOCK_P"] == 64 and output.device.type != "meta" else output,)

    monkeypatch.setitem(OPERATIONS, KERNEL, replace(right, run=spoilt))
    search = searching(FakeTimer(lambda has: {64: 0.1, 32: 0.5}.get(has["BLOCK_P"], 1.0)))
    outcome = search.tune(KERNEL, [default], EVER)
    assert outcome.best["BLOCK_P"] == 32
    assert search.warnings
    assert all("BLOCK_P 64" in line and "gives other results than the default" in line for line in search.warnings)


_ROW = torch.tensor([3], device=DEVICE)


def test_what_cannot_run_is_dropped_before_it_is_timed(default: Parameters) -> None:
    def compiled(jobs: Iterable[Job], deadline: float) -> dict[Job, Resources | str]:
        found: dict[Job, Resources | str] = {}
        for job in jobs:
            block = dict(job.constants)[([name for name, _ in job.signature].index("BLOCK_P"),)]
            warps = dict(job.options)["num_warps"]
            if (block, warps) == (64, 2):
                found[job] = resources(spill_bytes=MOST_SPILL_BYTES + 4)
            elif (block, warps) == (64, 4):
                found[job] = resources(shared_bytes=10_001)
            elif (block, warps) == (32, 2):
                found[job] = "it does not compile"
            elif (block, warps) != (32, 4):  # that one takes too long
                found[job] = resources()
        return found

    timer = FakeTimer(lambda has: 1 / has["BLOCK_P"])
    searching(timer, compiled).tune(KERNEL, [default], EVER)
    assert {has["BLOCK_P"] for has in timer.timed} == {16}
    assert default["BLOCK_P"] == 16


def test_what_spills_a_few_bytes_is_timed(default: Parameters) -> None:
    def compiled(jobs: Iterable[Job], deadline: float) -> dict[Job, Resources | str]:
        return dict.fromkeys(jobs, resources(spill_bytes=MOST_SPILL_BYTES))

    timer = FakeTimer(lambda has: 1 / has["BLOCK_P"])
    outcome = searching(timer, compiled).tune(KERNEL, [default], EVER)
    assert outcome.best["BLOCK_P"] == 64


@pytest.mark.parametrize(
    ("kernel", "favoured"),
    [
        (
            "deform_conv_forward",
            [
                {"BLOCK_P": 128, "BLOCK_C": 32, "num_warps": 16, "num_stages": 3},
                {"BLOCK_P": 128, "BLOCK_C": 32, "num_warps": 8},
            ],
        ),
        ("deform_conv_backward", [{"BLOCK_P": 128, "BLOCK_C": 16, "BLOCK_O": 256, "num_warps": 16, "num_stages": 2}]),
    ],
)
def test_what_the_time_model_favours_comes_first(kernel: str, favoured: list[Parameters]) -> None:
    default = dict(DEFAULT[kernel]["half"])
    candidates = list(first_candidates(SPACES[kernel], default))
    expected = [default, *({**default, **each} for each in favoured)]
    assert candidates[: len(expected)] == expected
    assert not [each for each in candidates[len(expected) :] if each in expected]


def test_the_default_is_timed_even_where_it_should_not_run(default: Parameters) -> None:
    timer = FakeTimer(lambda has: 1.0)
    outcome = searching(timer, lambda jobs, deadline: {}).tune(KERNEL, [default], 0)
    assert (outcome.best, outcome.timed) == (default, 1)


def test_where_the_default_does_not_run_the_best_other_one_is_taken(default: Parameters) -> None:
    def rule(has: dict) -> float:
        if has["BLOCK_P"] == default["BLOCK_P"]:
            raise RuntimeError("out of resource: shared memory\nmore")
        return 1 / has["BLOCK_P"]

    search = searching(FakeTimer(rule))
    outcome = search.tune(KERNEL, [default], EVER)
    assert outcome.best["BLOCK_P"] == 64
    assert outcome.default_ms is None
    assert "does not run: out of resource: shared memory" in search.warnings[0]
    with pytest.raises(NothingRunsError, match=KERNEL):
        searching(FakeTimer(lambda has: 1 / 0)).tune(KERNEL, [default], EVER)


def test_parameters_found_before_are_tried_too(default: Parameters) -> None:
    before = {**default, "num_warps": 16}
    search = searching(FakeTimer(lambda has: 1 / has["num_warps"]))
    outcomes = []
    tune_all(search, [KERNEL], {KERNEL: {"any": before}}, EVER, outcomes.append)
    assert outcomes[0].best["num_warps"] == 16


def test_every_kernel_of_the_default_table_can_be_tuned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each gets another way of cutting the work: it computes the same, is taken, and later kernels live with it."""
    others = {}
    for kernel, space in SPACES.items():
        start = next(iter(DEFAULT[kernel].values()))
        cuts = {name: (value,) for name, value in (("BLOCK_P", 16), ("TILE_W", 4)) if name in start}
        axes = cuts or {"num_warps": (1,)}
        others[kernel] = {name: values[0] for name, values in axes.items()}
        monkeypatch.setitem(SPACES, kernel, replace(space, axes=axes, later={}))
    timer = FakeTimer(lambda has: sum(has.get(name, 0) for name in ("BLOCK_P", "TILE_W", "num_warps")))
    search = searching(timer, problem=Problem(SHAPES, CHANNELS, torch.bfloat16, DEVICE))
    path = tmp_path / "gpu.json"
    tune_all(search, list(SPACES), {}, EVER, lambda each: merge(path, {each.kernel: {each.kind: each.best}}))
    assert search.warnings == []
    table = tuning.load_table("gpu", tmp_path)
    assert table.keys() == DEFAULT.keys()
    for kernel, changed in others.items():
        best = table[kernel]["any" if SPACES[kernel].every_dtype else "half"]
        if not best.get("WINDOWED", 1):
            continue  # it is not launched, so nothing is faster
        assert changed.items() <= best.items(), kernel
    with tuning.overriding(search.chosen):
        run = record(OPERATIONS["deform_conv_forward"], search.problem, ("attention_moments",))
    pieces = run.launches[0].arguments[3]
    assert pieces[:, 0].max() == 16, "positions of the largest part of a tile"


def test_recorded_launches_write_what_the_operation_gives() -> None:
    problem = prepared()
    (expected,) = results(OPERATIONS[KERNEL], problem)
    run = record(OPERATIONS[KERNEL], problem, (KERNEL,))
    output = run.launches[0].arguments[0].fill_(torch.nan)
    run()
    assert torch.equal(output, expected)
    offsets = problem.operands.offset[:, : OFFSETS * 20]  # of the finest level
    assert 0.5 < offsets.std() < 3  # offsets of a pixel or two


def test_results_agree_up_to_rounding() -> None:
    one = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert agree((one,), (one * (1 + 1e-5),), "float32")
    assert agree((one,), (one * (1 + 4e-3),), "half")
    assert not agree((one,), (one * (1 + 4e-3),), "float32")
    changed = one.clone()
    changed[5] += 0.3
    assert not agree((changed,), (one,), "half")
    assert not agree((one,), (one[:-1],), "half")
    assert not agree((one,), (one, one), "half")
    assert not agree((one.clone().fill_(torch.nan),), (one,), "half")


def test_the_spaces_are_those_of_the_table() -> None:
    assert SPACES.keys() == OPERATIONS.keys() == DEFAULT.keys()
    for kernel, space in SPACES.items():
        for entry in DEFAULT[kernel].values():
            candidates = first_candidates(space, dict(entry))
            assert candidates[0] == entry
            assert 4 < len(candidates) < 250
            for candidate in [*candidates, *later_candidates(space, candidates[:3])]:
                assert candidate.keys() - set(tuning.OPTIONAL) == entry.keys() - set(tuning.OPTIONAL)
                assert candidate.get("TILE_W", 1) <= candidate.get("BLOCK_P", 1)
    large = {"BLOCK_P": 128, "BLOCK_O": 256, "num_warps": 4}
    forward = first_candidates(SPACES["deform_conv_forward"], dict(DEFAULT["deform_conv_forward"]["half"]))
    assert not any(large.items() <= candidate.items() for candidate in forward)


@pytest.fixture
def evaluating(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs are expressions that other processes evaluate."""
    monkeypatch.setattr(compiling, "compile_or_reason", eval)


@pytest.mark.usefixtures("evaluating")
def test_a_compiler_that_crashes_or_hangs_stops_nobody() -> None:
    crash, hang = "__import__('os')._exit(3)", "__import__('time').sleep(600)"
    with Compiler(2) as compile_:
        jobs: list = ["2 + 3", crash, "3 * 4"]
        assert compile_(jobs, time.monotonic() + 60) == {"2 + 3": 5, crash: "the compiler crashes", "3 * 4": 12}
        assert compile_(["2 + 3"], 0.0) == {"2 + 3": 5}  # known by now
        # still at work when its neighbour crashes, and again if the two were tried side by side a second time
        slow = "__import__('time').sleep(1) or 6"
        late = "__import__('time').sleep(0.5) or __import__('os')._exit(3)"
        assert compile_([slow, late], time.monotonic() + 60) == {slow: 6, late: "the compiler crashes"}
        both = ["__import__('time').sleep(1)", "__import__('time').sleep(1.0)"]  # starts both processes again
        assert compile_(both, time.monotonic() + 60) == dict.fromkeys(both)
        began = time.monotonic()
        assert compile_([hang, "4 + 4"], began + 3) == {"4 + 4": 8}
        assert time.monotonic() - began < 30
        assert compile_(["5 + 5"], time.monotonic() + 60) == {"5 + 5": 10}


def test_candidates_are_compiled_in_other_processes_for_a_gpu_that_need_not_be_there(tmp_path: Path) -> None:
    code = """
import time, torch
from dyhead_kernels.dyhead_block.parameters import OFFSETS
from dyhead_kernels.launch import tuning
from benchmarks.tune.compiling import Compiler
from benchmarks.tune.problem import Problem
from benchmarks.tune.run import _starts
from benchmarks.tune.search import Search, _Kernel
from benchmarks.tune.problem import OPERATIONS
from benchmarks.tune.space import SPACES
if __name__ == "__main__":
    sketch = Problem(((4, 5), (2, 3)), 16, torch.bfloat16, torch.device("meta"))
    default = _starts("mix_forward", "half", tuning.load_table(tuning.DEFAULT), {})[0]
    candidates = [default, {**default, "num_warps": 2}, {**default, "BLOCK_P": 12}]
    with Compiler(1) as compiler:
        search = Search(sketch, sketch, "sm_90", 200_000, compiler, None, print, print)
        one = _Kernel(search, "mix_forward", SPACES["mix_forward"], OPERATIONS["mix_forward"], default)
        print(one.fitting(candidates, time.monotonic() + 100) == candidates[:2])
"""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    script = tmp_path / "compile.py"
    script.write_text(code)
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    process = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert process.stdout == "True\n", process.stderr


def test_the_command_writes_the_table_and_shows_it(
    default: Parameters, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """All but the GPU."""

    class Properties:
        major, minor, shared_memory_per_block, gcnArchName = 9, 0, 10_000, "gfx942:xnack-"

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(command, "GpuTimer", lambda device: FakeTimer(lambda has: 1 / has["BLOCK_P"]))
    monkeypatch.setattr(command, "Compiler", lambda workers: nullcontext(everything_fits))
    arguments = ([KERNEL], (16, 32), CHANNELS, ["fp32"], EVER, 1, DEVICE, tmp_path)
    command.run(*arguments)
    printed = capfd.readouterr().out
    path = tmp_path / "nvidia_h100_80gb_hbm3.json"
    assert f"Written to {path}" in printed
    assert f"| {KERNEL} | float32 | " in printed
    table = json.loads(path.read_text())
    assert table.keys() == {KERNEL}
    assert table[KERNEL]["float32"]["BLOCK_P"] == 64

    path.write_text("{}{}")
    with pytest.raises(TuneError, match="is not JSON"):
        command.run(*arguments)
    with pytest.raises(typer.BadParameter, match="share the entries 'half'"):
        command.run(*arguments[:3], ["bf16", "fp16"], *arguments[4:])
    with pytest.raises(typer.BadParameter, match="'gemm' is none of offsets_forward, "):
        command.run(["gemm"], *arguments[1:])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["tune", "--out", str(tmp_path)]) == 1
    printed, error = capfd.readouterr()
    assert printed == ""
    assert error.startswith("error: launch parameters can only be measured on the GPU they are for")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
