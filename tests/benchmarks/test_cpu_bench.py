"""Measurements on a CPU, each in a process of its own: what fails sinks nobody, and no process is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
import typer

from benchmarks import gate
from benchmarks import rows as results
from benchmarks.apart import session
from benchmarks.apart.detectors import DETECTORS, prepare_detector
from benchmarks.apart.job import Job, Sizes
from benchmarks.apart.loads import load
from benchmarks.apart.measure import Plan, measure
from benchmarks.apart.onnx_graphs import export_case, prepare_onnxruntime
from benchmarks.apart.pool import spinning_pool
from benchmarks.apart.processes import Failed, Worker
from benchmarks.apart.table import cpu_table
from benchmarks.command import main
from benchmarks.options import CPU_CASES, cores
from benchmarks.providers import Unavailable
from benchmarks.rows import Machine
from benchmarks.session import plot
from tests.benchmarks.scripted_worker import KINDS, script

HERE = Machine("Some CPU", 1, "2.0", "", "abc")
TINY = Sizes(32, 32, channels=32, blocks=1)
WAIT_SECONDS = 20
ROOT = Path(__file__).parents[2]


def job(provider: str = "ours", case: str = "deform_conv", sizes: Sizes = TINY, **changes: object) -> Job:
    return replace(Job(case, "forward", provider, 1, sizes), **changes)  # type: ignore[arg-type]


def row(provider: str, p50_ms: float, load: str = "none", threads: int = 1) -> results.Row:
    columns = ("head", "forward", "1x64x64px", "float32", provider)
    return results.Row(*columns, 1.0, p50_ms, 9.0, 12.3, 0.25, None, "Some CPU", threads, "2.0", "", "abc", load)


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Every process that a test has started is gone when it ends."""
    before = set(psutil.Process().children(recursive=True))
    yield
    assert set(psutil.Process().children(recursive=True)) <= before


def wait_until_gone(pids: list[int]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        assert time.monotonic() < end, f"of {pids} some go on"
        time.sleep(0.05)


def test_a_full_load_is_a_busy_process_for_each_core_with_this_priority() -> None:
    with load("full") as pids:
        assert len(pids) == cores()
        for process in map(psutil.Process, pids):
            assert process.nice() == psutil.Process().nice()
            assert process.status() in (psutil.STATUS_RUNNING, psutil.STATUS_WAKING)
    assert not any(map(psutil.pid_exists, pids))


@pytest.mark.parametrize("name", ["none", "pool"])
def test_other_loads_have_no_processes(name: str) -> None:
    with load(name) as pids:
        assert pids == []


def test_a_load_ends_with_what_it_is_for() -> None:
    with pytest.raises(ZeroDivisionError), load("full", 2) as pids:
        raise ZeroDivisionError
    assert len(pids) == 2
    assert not any(map(psutil.pid_exists, pids))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_load_ends_with_the_command_however_that_ends(how: signal.Signals) -> None:
    code = (
        "import signal, time\nfrom benchmarks.apart.loads import load\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job of a shell ignores it
        "with load('full', 2) as pids:\n    print(*pids, flush=True)\n    time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == 2
        process.send_signal(how)
        try:
            process.wait(WAIT_SECONDS)
        finally:
            process.kill()  # else leaving would wait for it
    wait_until_gone(pids)


def test_the_pool_spins_in_a_thread_that_ends() -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    before = threading.active_count()
    awake = spinning_pool()
    for _ in range(2):
        assert threading.active_count() == before
        with awake():
            assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_one_that_crashes_or_hangs_does_not_sink_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, lambda job: job.provider)
    jobs = [job(kind) for kind in (*KINDS[1:], KINDS[0])]
    found = measure(jobs, Plan(("none", "full"), 2, timeout_s=1.0), HERE, lambda line: None)
    assert [(own.provider, row.provider, row.load) for own, row in found.rows] == [
        ("good", "good", "none"),
        ("good", "good", "full"),
    ]
    assert {entry.provider: (entry.reason, entry.wrong) for entry in found.skipped} == {
        "no beginning": ("it is not installed", False),
        "crash": ("the process crashed: the last words", False),
        "hang": ("no answer in 1 s", False),
        "late crash": ("the process crashed: signal 9 (1 threads, load none)", False),
        "late hang": ("no answer in 1 s (1 threads, load none)", False),
        "wrong": ("wrong: output 0 is off", True),
    }


def test_rows_say_threads_load_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, lambda job: "good")
    found = measure([job(threads=3)], Plan(("pool", "none"), 1, 5.0), HERE, lambda line: None)
    assert [(own.has_pool, row.load) for own, row in found.rows] == [(False, "none"), (True, "pool")]
    for _, measured in found.rows:
        assert (measured.op, measured.provider, measured.threads) == ("deform_conv", "dyhead_kernels", 3)
        assert measured.p50_ms == pytest.approx(1048.576)
        assert measured.peak_mib == pytest.approx(1048.58)
        assert measured.tflop_per_s == pytest.approx(1.0, rel=1e-3)


def test_an_interrupted_measurement_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, lambda job: "late hang")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
    timer = threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        measure([job()], Plan(("full",), 1, 60.0), HERE, lambda line: None)
    timer.join()
    signal.signal(signal.SIGINT, before)


def test_a_real_process_builds_weighs_and_runs() -> None:
    with Worker(job(), timeout_s=120) as worker:
        facts = worker.wait_until_ready()
        first = worker.turn(None)
        second = worker.turn(2)
    assert facts["flop"] == job().build().work.flop
    assert facts["peak_mib"] is None or facts["peak_mib"] >= 0
    assert len(second) == 2
    assert min(first + second) > 0


def test_a_real_process_that_computes_something_else_says_so(tmp_path: Path) -> None:
    torch.save({"output 0": torch.ones_like(job().build().activations["input"])}, tmp_path / "truth.pt")
    refused = pytest.raises(Failed, match="wrong: output 0 is off by")
    with Worker(job(folder=str(tmp_path)), timeout_s=120) as worker, refused as caught:
        worker.wait_until_ready()
    assert caught.value.wrong


@pytest.mark.parametrize("case", ["deform_conv", "block"])
def test_onnxruntime_computes_the_same(case: str, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    built = job(case=case, sizes=replace(TINY, height_px=40, width_px=48)).build()
    export_case(built, tmp_path / "model.onnx")
    run = prepare_onnxruntime(built, tmp_path / "model.onnx")
    gate.check(run(), gate.truth(built, "forward"), "float32")


@pytest.mark.slow
def test_the_embedded_detector_is_the_same_in_onnxruntime(tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    built = job(case="embedded", sizes=Sizes(64, 96)).build()
    assert built.op == "embedded"
    export_case(built, tmp_path / "model.onnx")
    gate.check(prepare_onnxruntime(built, tmp_path / "model.onnx")(), gate.truth(built, "forward"), "float32")


@pytest.mark.parametrize("key", ["retinanet", "fcos"])
def test_detectors_of_torchvision_run(key: str) -> None:
    images = {"images": torch.zeros(1, 3, 64, 64)}
    built = replace(job().build(), activations=images)
    assert prepare_detector(DETECTORS[key], built)() == {}


def test_mmdetection_takes_part_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mmdet", None)
    with pytest.raises(Unavailable, match="mmdet is not installed"):
        DETECTORS["mmdet"].make()


def test_who_takes_part() -> None:
    assert session.provider_keys("head", "forward", True) == ["ours", "onnxruntime", "official-float32", "dense"]
    assert session.provider_keys("head", "forward", False) == ["ours", "official-float32", "dense"]
    assert session.provider_keys("head", "training step", True) == ["ours", "official-float32", "dense"]
    assert session.provider_keys("detector", "forward", False)[-4:] == ["ours-optimized", *DETECTORS]
    assert session.provider_keys("embedded", "forward", False)[-1] == "ours-optimized"
    assert "ours-optimized" not in session.provider_keys("detector", "training step", False)


def test_options_are_read_and_mistakes_named() -> None:
    assert session.load_names("full, none") == ["full", "none"]
    assert session.thread_counts("1,all,1") == list(dict.fromkeys([1, cores()]))
    with pytest.raises(typer.BadParameter, match="'busy' is none of none, full, pool"):
        session.load_names("none,busy")
    for text in ("0", "-1", "few", ""):
        with pytest.raises(typer.BadParameter, match="is no list of numbers"):
            session.thread_counts(text)


def test_the_table_compares_with_ours_and_with_the_floor() -> None:
    floor = "dense 3x3 convolutions (floor)"
    rows = [row("dyhead_kernels", 4.0), row("onnxruntime", 6.0), row(floor, 2.0), row("onnxruntime", 5.0, "full", 2)]
    head, _, *lines = cpu_table([*rows, replace(row("torch", 1.0), load="")]).splitlines()
    assert "| / ours | / floor |" in head
    start = "| head, 1x64x64px | forward | "
    assert lines == [
        f"{start}1 | none | {floor} | 2.00 | 1.00..9.00 | 0.50 | 1.00 | 12 |",
        f"{start}1 | none | dyhead_kernels | 4.00 | 1.00..9.00 | 1.00 | 2.00 | 12 |",
        f"{start}1 | none | onnxruntime | 6.00 | 1.00..9.00 | 1.50 | 3.00 | 12 |",
        f"{start}2 | full | onnxruntime | 5.00 | 1.00..9.00 |  |  | 12 |",
    ]


def test_a_file_from_before_loads_is_read_and_appended_to(tmp_path: Path) -> None:
    old = replace(row("dyhead_kernels", 4.0), load="")
    path = results.append([old], tmp_path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0].removesuffix(",load"), lines[1].removesuffix(",")]) + "\n")
    assert results.read(path) == [old]
    new = row("dyhead_kernels", 5.0, "full")
    assert results.append([new], tmp_path) == path
    assert results.read(path) == [old, new]
    assert results.latest(results.read(path)) == [old, new]
    assert path.read_text().splitlines()[0].endswith(",commit,load")


def test_loads_and_threads_are_part_of_what_a_row_is(tmp_path: Path) -> None:
    rows = [row("onnxruntime", 4.0), row("onnxruntime", 5.0, "full"), row("onnxruntime", 6.0, "none", 2)]
    assert results.latest([*rows, row("onnxruntime", 7.0)]) == [row("onnxruntime", 7.0), *rows[1:]]
    path = results.append(rows, tmp_path)
    assert plot(path, tmp_path / "full.png", loads=["full"]).read_bytes().startswith(b"\x89PNG")
    with pytest.raises(results.ResultsError, match="no row to plot"):
        plot(path, tmp_path / "pool.png", loads=["pool"])


def test_the_command_measures_prints_and_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    script(monkeypatch, lambda job: "crash" if job.provider == "dense" else "good")
    arguments = ["cpu", "--quick", "--threads", "1,2", "--load", "none,full", "--pass", "forward", "-o", str(tmp_path)]
    assert main(arguments) == 0
    printed = capfd.readouterr().out
    (path,) = tmp_path.glob("*.csv")
    rows = results.read(path)
    assert {(row.op, row.threads, row.load) for row in rows} == {
        (case, threads, name) for case in CPU_CASES for threads in (1, 2) for name in ("none", "full")
    }
    assert {"dyhead_kernels", "onnxruntime", "torchvision FCOS, ResNet-50"} < {row.provider for row in rows}
    assert "- **dense 3x3 convolutions (floor)**: the process crashed: the last words" in printed
    assert cpu_table(rows) in printed
    assert main(["table", str(path)]) == 0
    assert cpu_table(rows) in capfd.readouterr().out


def test_without_the_truth_nothing_is_timed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    script(monkeypatch, lambda job: "crash" if job.provider == "truth" else "good")
    assert main(["cpu", "block", "--quick", "--threads", "1", "--pass", "forward", "--no-onnx", "--no-save"]) == 0
    reason = "there is nothing to compare with: the process crashed: the last words"
    assert f"- **dyhead_kernels**: {reason}" in capfd.readouterr().out


def test_an_operator_of_ours_that_is_wrong_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    script(monkeypatch, lambda job: "wrong" if job.provider == "ours" else "good")
    chosen = ["--threads", "1", "--load", "none", "--pass", "forward", "--no-onnx", "--no-save"]
    assert main(["cpu", "block", "--quick", *chosen]) == 1
    assert capfd.readouterr().err.endswith("error: block, forward: dyhead_kernels is wrong: output 0 is off\n")


@pytest.mark.slow
def test_the_whole_command_on_one_convolution(tmp_path: Path) -> None:
    chosen = ["--quick", "--pass", "forward", "--threads", "1", "--load", "none,full", "--no-onnx"]
    assert main(["cpu", "deform_conv", *chosen, "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*.csv")
    names = ("dyhead_kernels", "torchvision, float32", "dense 3x3 convolutions (floor)")
    rows = results.read(path)
    assert {(row.provider, row.load) for row in rows} == {(name, own) for name in names for own in ("none", "full")}
    assert all(0 < row.p20_ms <= row.p50_ms <= row.p80_ms for row in rows)
