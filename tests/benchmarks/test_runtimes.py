"""One detector in several runtimes: who is timed, and who is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import runtimes
from dyzoo.cli import run
from dyzoo.errors import DyzooError
from tests.model.narrow_detectors import eager_detector, narrow_detector


def test_runtimes_are_timed_in_turns_and_one_that_fails_is_listed(tmp_path: Path) -> None:
    narrow_detector((64, 128)).save_pretrained(tmp_path / "narrow")
    broken = [tmp_path / "a" / "broken.onnx", tmp_path / "b" / "broken.onnx"]  # two of one name are two
    for path in broken:
        path.parent.mkdir()
        path.write_text("no model")
    noted: list[str] = []
    measured, skipped = runtimes.measure(
        str(tmp_path / "narrow"), broken, (64, 96), 2, compile_=False, note=noted.append
    )
    assert [each.runtime for each in measured] == [runtimes.EAGER, runtimes.OPTIMIZED]
    assert 0 < measured[0].times.p20 <= measured[0].times.p50 <= measured[0].times.p80
    assert measured[0].size_mb > 1
    assert [line.partition(":")[0] for line in skipped] == [str(path) for path in broken]
    assert noted.count(f"timing {runtimes.EAGER}") == 2
    assert runtimes.EAGER in runtimes.table(measured)


def test_a_format_that_cannot_be_made_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dyzoo.runtime.sessions.find_spec", lambda name: None)
    skipped: list[str] = []
    assert runtimes._export(narrow_detector((64, 128)), tmp_path, skipped, lambda line: None) == []
    assert [line.partition(":")[0] for line in skipped] == list(runtimes.FORMATS)
    assert "not installed" in skipped[0]


def test_an_exported_detector_is_none_to_compare_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dyzoo.load", lambda source: object())
    with pytest.raises(DyzooError, match="is exported already"):
        runtimes.measure("some.onnx", [], (64, 96), 1, compile_=False, note=lambda line: None)


@pytest.mark.slow  # traces the detector twice
def test_a_detector_is_exported_to_every_runtime_that_is_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("onnxscript", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    eager_detector().save_pretrained(tmp_path / "small")
    assert run(["bench", "runtimes", str(tmp_path / "small"), "--no-compile", "--rounds", "1", "--size", "64x96"]) == 0
    said = capsys.readouterr().out
    rows = {line.split("|")[1].strip(): line for line in said.splitlines() if line.startswith("|")}
    assert {runtimes.EAGER, runtimes.OPTIMIZED, "onnxruntime.onnx", "OpenVINO.xml"} <= set(rows), said
