"""The first report on a GPU: steps that crash, hang or are stopped lose nothing, and a second call goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer

from benchmarks import rows as results
from benchmarks.command import app, main
from benchmarks.gpu_report import plan as plans
from benchmarks.gpu_report import report, running, summary, work
from benchmarks.gpu_report.plan import SECONDS, Step, plan
from benchmarks.gpu_report.report import make, read_states
from benchmarks.gpu_report.run import mend_rows, planned
from benchmarks.gpu_report.running import run
from benchmarks.predicted import predicted_ms
from benchmarks.rows import Machine, Row
from benchmarks.timing import Percentiles

CPU = torch.device("cpu")
H100 = Machine("NVIDIA H100 80GB HBM3", 1, "2.14", "3.8.0", "abc")
SHAPE = "1x800x1344px"


def fake(name: str, code: str, minutes: float = 1, least_seconds: float = 0.0) -> Step:
    return Step(name, f"what {name} finds", minutes, (sys.executable, "-c", code), least_seconds=least_seconds)


def row(provider: str, ms: float, op: str = "launch", where: Machine = H100) -> Row:
    return Row.of(op, "forward", SHAPE, "bfloat16", provider, Percentiles(ms, ms, ms), None, where)


def states_of(plan: list[Step], out: Path, minutes: float = 1.0) -> dict[str, str]:
    written: list[str] = []

    def summarize(states: report.States) -> None:
        text = summary.text(plan, states, out, CPU, "64x64")
        (out / "summary.md").write_text(text, encoding="utf-8")
        written.append(text)

    found = make(plan, out, minutes, summarize, lambda line: None)
    assert read_states(out) == {name: state for name, state in found.items() if state.status != "left out"} | {
        name: state for name, state in read_states(out).items() if state.status == "left out"
    }
    return {name: state.status for name, state in found.items()}


def test_a_step_that_crashes_or_hangs_stops_nobody(tmp_path: Path) -> None:
    steps = [
        fake("crash", "print('about to fail'); raise MemoryError('CUDA out of memory')"),
        fake("killed", "import os; os.kill(os.getpid(), 9)"),
        fake("hang", "print('waiting', flush=True); import time; time.sleep(600)", minutes=0.05),
        Step("absent", "what nobody has", 1, ("no-such-program-here",), least_seconds=0),
        Step("tool", "what a tool finds", 1, (), "the tool is not installed"),
        fake("good", "print('all is well')"),
    ]
    began = time.monotonic()
    assert states_of(steps, tmp_path) == {
        "tool": "left out",
        "crash": "failed",
        "killed": "failed",
        "hang": "timed out",
        "absent": "failed",
        "good": "done",
    }
    assert time.monotonic() - began < 60
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    for said in (
        "MemoryError: CUDA out of memory",
        "about to fail",
        "killed by SIGKILL, as a system does whose memory runs out",
        "waiting",
        "no-such-program-here cannot be started",
        "left out: the tool is not installed",
        "This was a CPU: no number here is of a GPU",
        "Nothing was measured yet.",
    ):
        assert said in text
    assert "all is well" in (tmp_path / "logs" / "good.log").read_text()


def test_a_second_call_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    count = tmp_path / "count"
    note = f"open({str(count)!r}, 'a').write({{!r}}); "
    first = [
        fake("once", note.format("1")),
        fake("broken", note.format("b") + "raise SystemExit(3)"),
        fake("late", note.format("l"), least_seconds=1e6),
    ]
    assert states_of(first, tmp_path) == {"once": "done", "broken": "failed", "late": "left out"}
    assert count.read_text() == "1b"
    mended = [first[0], fake("broken", note.format("m")), fake("late", note.format("L"))]
    assert states_of(mended, tmp_path) == {"once": "done", "broken": "done", "late": "done"}
    assert count.read_text() == "1bLm"  # what was never begun comes first
    assert states_of(mended, tmp_path) == {"once": "done", "broken": "done", "late": "done"}
    assert count.read_text() == "1bLm"


def test_a_step_is_told_its_time_and_takes_no_more_than_its_share(tmp_path: Path) -> None:
    told = Step("told", "", 1, (sys.executable, "-c", "import sys; print(sys.argv[1])", SECONDS), least_seconds=0)
    steps = [told, fake("other", "pass", minutes=3)]
    states_of(steps, tmp_path, minutes=2)
    assert 20 <= int((tmp_path / "logs" / "told.log").read_text()) <= 24  # 0.8 of a quarter of 120 s
    states = read_states(tmp_path)
    assert states["told"].limit_seconds == pytest.approx(30, abs=1)
    assert states["other"].limit_seconds > 90  # and what the first one left


def test_states_are_written_before_a_step_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    code = f"print(open({str(tmp_path / 'state.json')!r}).read())"
    states_of([fake("reads", code)], tmp_path)
    seen = json.loads((tmp_path / "logs" / "reads.log").read_text())
    assert seen["reads"]["status"] == "cut off"  # so a report that dies now is told
    (tmp_path / "state.json").write_text('{"reads": [')
    with pytest.raises(report.ReportError, match="is not what an earlier report left: delete it") as error:
        make([], tmp_path, 1, lambda states: None, print)
    assert "\n" not in str(error.value)


SCRIPT = """
import sys
from pathlib import Path
from benchmarks.gpu_report.plan import Step
from benchmarks.gpu_report.report import make
out = Path(sys.argv[1])
code = "import os, time; open(%r, 'w').write(str(os.getpid())); time.sleep(600)" % str(out / "pid")
steps = [
    Step("first", "", 1, (sys.executable, "-c", "pass"), least_seconds=0),
    Step("long", "", 9, (sys.executable, "-c", code), least_seconds=0),
]
make(steps, out, 10, lambda states: (out / "summary.md").write_text(" ".join(states)), print)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="orphans are killed on Linux alone")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_report_that_is_stopped_leaves_its_states_and_no_process(how: signal.Signals, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], env=environment)
    pid = _wait_for(lambda: int((tmp_path / "pid").read_text() or 0))
    process.send_signal(how)
    assert process.wait(60) == (128 + how if how == signal.SIGTERM else -how)
    _wait_for(lambda: not _is_running(pid))
    states = read_states(tmp_path)
    assert {name: state.status for name, state in states.items()} == {"first": "done", "long": "cut off"}
    assert (tmp_path / "summary.md").read_text() == "first long"


def _wait_for(condition) -> int:
    for _ in range(600):
        try:
            if found := condition():
                return found
        except (OSError, ValueError):
            pass
        time.sleep(0.1)
    raise AssertionError("nothing happened in a minute")


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_a_step_has_started_ends_with_it(tmp_path: Path) -> None:
    child = "import subprocess; print(subprocess.Popen(['sleep', '600']).pid)"
    assert run([sys.executable, "-c", child], 60, tmp_path / "log").status == "done"
    pid = int((tmp_path / "log").read_text())
    _wait_for(lambda: not _is_running(pid))


def test_last_lines_are_plain_and_few(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * 100_000 + b"\n" + b"10%\r20%\r\x1b[31mred\x1b[0m\n\xff\n" + b"line\n" * 40)
    lines = running.last_lines(log, 42)
    assert lines[0] == "[31mred[0m"
    assert lines[2:] == ["line"] * 40
    assert len(running.last_lines(log)) == running.LAST_LINES
    assert running.last_lines(tmp_path / "none") == []


def test_the_summary_holds_rows_against_predictions(tmp_path: Path) -> None:
    results.append([row("deform_conv_forward", 0.3), row("dyhead_kernels, CUDA graph", 0.5, op="block")], tmp_path)
    known = [row("deform_conv_forward", 0.2), row("dyhead_kernels", 0.25, op="block")]
    results.write([_on_card(each) for each in known], tmp_path / plans.PREDICTED)
    text = summary.text([], {}, tmp_path, CPU, "800x1344")
    assert "| deform_conv_forward | 0.300 | 0.300..0.300 |  |  |  |  | 0.200 | 1.50 |" in text
    assert "| dyhead_kernels, CUDA graph | 0.500 | 0.500..0.500 |  |  |  |  | 0.250 | 2.00 |" in text


def test_the_summary_tells_what_a_finished_step_could_not_do(tmp_path: Path) -> None:
    failed = "- **dyhead_kernels, reduce-overhead**: failed: RuntimeError: a tensor in the pool"
    steps = [
        fake("compiled", f"print('| a table |'); print('Not timed:'); print({failed!r})"),
        Step(
            "tests", "", 1, (sys.executable, "-c", "print('7 passed, 1 skipped in 3s')", plans.PYTEST), least_seconds=0
        ),
    ]
    (tmp_path / "foreign.csv").write_text("a,b\n1,2\n")
    assert states_of(steps, tmp_path) == {"compiled": "done", "tests": "done"}
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert f"### compiled\n\nNot timed:\n\n{failed}\n" in text
    assert "### tests\n\n7 passed, 1 skipped in 3s\n" in text
    assert "foreign.csv has the columns a,b" in text


def _on_card(each: Row) -> Row:
    return replace(each, device="H100")


def test_only_our_rows_on_a_card_with_a_model_have_a_prediction() -> None:
    predictions = {("H100", "block", "forward", SHAPE, "bfloat16", "dyhead_kernels"): 0.25}
    assert predicted_ms(row("dyhead_kernels", 1, op="block"), predictions) == 0.25
    assert predicted_ms(row("torchvision, float32", 1, op="block"), predictions) is None
    elsewhere = Machine("Some CPU", 1, "2.14", "", "abc")
    assert predicted_ms(row("dyhead_kernels", 1, op="block", where=elsewhere), predictions) is None


def test_half_a_row_is_cut_off(tmp_path: Path) -> None:
    path = results.append([row("a", 1.0), row("b", 2.0)], tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole + b"launch,forward,1x8")
    mend_rows(tmp_path)
    assert path.read_bytes() == whole
    mend_rows(tmp_path / "new")


def test_the_plan_says_what_a_device_cannot_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = plan(tmp_path, CPU, "Some CPU", "64x64")
    assert [step.name for step in steps if step.command] == ["machine", "predict", "head"]
    assert {step.reason for step in steps if not step.command} == {"it needs a GPU"}
    monkeypatch.setattr(plans, "CHECKOUT", tmp_path)
    steps = plan(tmp_path, torch.device("cuda"), "NVIDIA Unheard Of", "800x1344")
    reasons = {step.name: step.reason for step in steps if not step.command}
    assert reasons.keys() >= {"predict", "tests", "sanitizer"}
    assert reasons["predict"] == "there is no time model of NVIDIA Unheard Of"
    assert reasons["tests"] == f"there is no {tmp_path}/tests/kernels: run from a checkout"
    lines = planned(steps, 25, {}).splitlines()
    shares = [float(share) for line in lines[2:] if (share := line.split("|")[3].strip())]
    assert sum(shares) == pytest.approx(25, abs=0.3)


def test_every_command_of_the_plan_is_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Their options are known; what they are asked to measure is not here."""
    for step in plan(tmp_path, torch.device("cuda"), "", "800x1344"):
        if "bench" in step.command:
            name, *arguments = step.command[step.command.index("bench") + 1 :]
            arguments = [word.replace(SECONDS, "60") for word in arguments]
            command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
            command.make_context(name, arguments, resilient_parsing=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so_and_the_plan_can_be_seen(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    assert main(["gpu-report", "--out", str(out)]) == 1
    printed, error = capfd.readouterr()
    assert printed == ""
    assert error.startswith("error: nothing can be measured: there is no GPU here")
    assert error.count("\n") == 1
    assert main(["gpu-report", "--out", str(out), "--dry-run", "--minutes", "25"]) == 0
    printed, _ = capfd.readouterr()
    assert "| launches | every launch of a block alone, as a CUDA graph | 4.2 |" in printed
    assert not out.exists()


@pytest.mark.slow
def test_every_launch_alone_gets_a_row_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the GPU: kernels are interpreted on a tiny image, times are made up, one launch fails the first time."""
    pytest.importorskip("triton")
    from dyhead_kernels.launch import tuning
    from dyhead_kernels.static.jobs import recorded

    timed: list[str] = []

    def timer(device: torch.device):
        def time_(runs, rounds: int) -> list[list[float]]:
            ((launch,),) = (each.launches for each in runs)
            timed.append(launch.name)
            if launch.name == "mix_backward" and timed.count(launch.name) == 1:
                raise RuntimeError("out of resource: shared memory")
            return [[0.5] * rounds]

        return time_

    monkeypatch.setattr("benchmarks.tune.timing.GpuTimer", timer)
    monkeypatch.setattr(tuning, "architecture_of", lambda device: "sm_90")
    monkeypatch.setattr(work, "CHANNELS", 16)
    assert work.time_launches(CPU, (32, 32), tmp_path) == ["mix_backward"]
    assert work.time_launches(CPU, (32, 32), tmp_path) == []
    assert timed.count("mix_backward") == 2
    assert len(timed) == len(set(timed)) + 1
    (path,) = tmp_path.glob("*.csv")
    expected = {
        (launch.name, pass_) for pass_, own in recorded("bfloat16", 16, "sm_90").items() for launch in own.launches
    }
    assert {(row.provider, row.pass_) for row in results.read(path)} == expected


@pytest.mark.slow
def test_a_report_of_a_cpu_says_that_it_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real steps, as far as a CPU can take them; without the compiler's minute."""
    monkeypatch.setattr("benchmarks.gpu_report.run.plan", _without_predictions)
    assert main(["gpu-report", "--device", "cpu", "--size", "64x64", "--minutes", "10", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "This was a CPU: no number here is of a GPU" in text
    assert "| head, forward, 1x64x64px, float32 |" in text
    assert "| dyhead_kernels |" in text
    assert "This machine's peaks: " in text
    assert {state.status for state in read_states(tmp_path).values()} == {"done", "left out"}


def _without_predictions(*arguments: object) -> list[Step]:
    return [step for step in plan(*arguments) if step.name != "predict"]  # type: ignore[arg-type]
