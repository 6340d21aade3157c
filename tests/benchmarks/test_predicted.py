"""Predictions that are kept as rows, and tables that hold measured rows against them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from dyhead_kernels.static.cards import CARDS

from benchmarks.command import main
from benchmarks.predicted import KEPT, LAUNCH, OURS, SHAPE, known, rows_of
from benchmarks.report import markdown
from benchmarks.rows import Machine, Row, read, write
from benchmarks.timing import Percentiles

GPU = Machine("NVIDIA H100 80GB HBM3", 1, "2.14", "3.8.0", "abc")


def row(op: str, pass_: str, provider: str, ms: float) -> Row:
    return Row.of(op, pass_, SHAPE, "bfloat16", provider, Percentiles(ms, ms, ms), None, GPU)


def test_every_launch_of_a_block_has_a_kept_prediction() -> None:
    pytest.importorskip("triton")
    from dyhead_kernels.static.jobs import recorded

    predictions = known()
    for card in CARDS.values():
        name = next(key for key, each in CARDS.items() if each is card)
        for dtype in ("bfloat16", "float32"):
            for pass_, own in recorded(dtype, 256, card.target).items():
                for launch in own.launches:
                    place = (name, LAUNCH, pass_, SHAPE, dtype, launch.name)
                    assert predictions.get(place, 0) > 0, f"{place}: `python -m benchmarks predict` writes {KEPT.name}"
            head = predictions[name, "head", "forward", SHAPE, dtype, OURS]
            assert head == pytest.approx(6 * predictions[name, "block", "forward", SHAPE, dtype, OURS], rel=1e-3)


def test_launches_add_up_to_blocks_and_heads() -> None:
    each = {"card": "H100", "dtype": "bfloat16", "launch": "a", "us": 10.0}
    found = {
        (found.op, found.pass_, found.provider): found.p50_ms
        for found in rows_of([{**each, "pass_": "forward"}, {**each, "pass_": "backward", "launch": "b", "us": 30.0}])
    }
    assert found == {
        (LAUNCH, "forward", "a"): 0.01,
        (LAUNCH, "backward", "b"): 0.03,
        ("block", "forward", OURS): 0.01,
        ("block", "training step", OURS): 0.04,
        ("head", "forward", OURS): 0.06,
        ("head", "training step", OURS): 0.24,
    }


def test_tables_show_predictions_of_cards_that_have_a_model(tmp_path: Path) -> None:
    path = tmp_path / "predicted.csv"
    write([replace(row("head", "forward", OURS, 1.5), device="H100")], path)
    rows = [row("head", "forward", "dyhead_kernels, CUDA graph", 3.0), row("head", "forward", "dense", 1.0)]
    header, rule, *lines = markdown(rows, predictions=known(path)).splitlines()
    assert header.endswith("| predicted ms | measured / predicted |")
    assert lines[0].endswith("|  |  |")
    assert lines[1].endswith("| 1.50 | 2.00 |")
    assert len({line.count("|") for line in (header, rule, *lines)}) == 1
    elsewhere = [replace(each, device="Some CPU") for each in rows]
    assert "predicted" not in markdown(elsewhere, predictions=known(path))


def test_kept_predictions_are_rows() -> None:
    rows = read(KEPT)
    assert {each.device for each in rows} == set(CARDS)
    assert json.dumps([each.key for each in rows])
    assert known(KEPT.with_name("no-such.csv")) == {}


def test_what_cannot_be_predicted_is_one_line(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for arguments, said in (
        (["--card", "H1000"], "'H1000' is none of H100, "),
        (["--dtype", "tf32"], "tf32 has no time model: choose float32"),
        (["--dtype", "int8"], "'int8' is none of "),
    ):
        assert main(["predict", *arguments, "--out", str(tmp_path / "out.csv")]) == 2
        error = capfd.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_interpreter_predicts_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert main(["predict", "--card", "H100", "--out", str(tmp_path / "out.csv")]) == 1
    assert "the kernels cannot be compiled here: " in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []
