"""Times of a block's steps by name."""

from __future__ import annotations

import pytest
import torch
from dyhead_kernels.backends import form_of

from benchmarks import steps
from benchmarks.cases import Setup
from benchmarks.command import main
from benchmarks.precision import PRECISIONS

SETUP = Setup(40, 40, 1, PRECISIONS["float32"], torch.device("cpu"))


def test_every_step_has_a_time_in_both_passes() -> None:
    found = steps.measure(SETUP, rounds=2, channels=32)
    assert list(found) == [(step, pass_) for pass_ in ("forward", "backward") for step in steps.STEPS]
    assert all(len(taken_ms) == 2 and min(taken_ms) > 0 for taken_ms in found.values())


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_every_form_calls_its_steps_by_these_names(backend: str) -> None:
    if backend == "triton":
        pytest.importorskip("triton")
    form = form_of("dyhead_block", backend)
    for step in steps.STEPS:
        module = getattr(form, step)
        assert step in module.__name__
        assert callable(module.forward)
        assert callable(module.backward)


def test_a_form_is_itself_again_after_a_failure() -> None:
    form = form_of("dyhead_block", "torch")
    before = [getattr(form, step) for step in steps.STEPS]

    def fail() -> None:
        with steps._watched(form, lambda step, run: run()):
            assert form.mix is not before[-1]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [getattr(form, step) for step in steps.STEPS] == before


def test_the_command_prints_a_table(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["steps", "--size", "32x32", "--device", "cpu", "--rounds", "1"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [*steps.STEPS] * 2
    assert main(["steps", "--size", "32x32", "--device", "cpu", "--dtype", "tf32"]) == 2
    assert "tf32 is a rounding of GPUs" in capfd.readouterr().err


def test_the_reference_has_no_steps(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DYHEAD_KERNELS_BACKEND", "reference")
    assert main(["steps", "--size", "32x32", "--device", "cpu"]) == 1
    expected = "error: the reference has no steps to time: unset DYHEAD_KERNELS_BACKEND, or set it to torch\n"
    assert capfd.readouterr().err == expected
