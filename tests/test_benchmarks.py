"""The benchmark's own promises, on a case that takes no time."""

import csv
from pathlib import Path

import pytest
import torch

from benchmarks import report, runner
from benchmarks.cases import CASES, Case, Provider

CPU = torch.device("cpu")


def tiny_case(**providers: Provider) -> Case:
    tensors = {"x": torch.arange(1.0, 5.0).requires_grad_()}
    return Case("square", "4", tensors, {"slow": Provider(lambda x: x**2), **providers}, baseline="slow")


def test_every_provider_is_timed_in_both_passes_and_kept(tmp_path: Path) -> None:
    case = tiny_case(fast=Provider(lambda x: x * x), floor=Provider(lambda x: x.clone(), exact=False))
    rows = list(runner.measure(case, CPU, rounds=3))
    assert [(row.provider, row.pass_) for row in rows] == [
        (provider, pass_) for pass_ in ("forward", "training step") for provider in ("slow", "fast", "floor")
    ]
    assert all(0 < row.p20_ms <= row.p50_ms <= row.p80_ms for row in rows)

    path = report.append(rows, tmp_path)
    assert report.append(rows, tmp_path) == path
    with path.open(newline="") as file:
        kept = list(csv.DictReader(file))
    assert len(kept) == 2 * len(rows)
    assert kept[1]["provider"] == "fast"
    assert float(kept[1]["p50_ms"]) == rows[1].p50_ms

    table = report.markdown(rows, {"square": "slow"})
    assert table.count("| slow |") == 2
    assert all(line.endswith(" 1.00 |") for line in table.splitlines() if line.startswith("| slow |"))


@pytest.mark.parametrize(
    ("wrong", "pass_"), [(lambda x: x * x + 1, "forward"), (lambda x: x * x.detach(), "training step")]
)
def test_a_provider_that_computes_something_else_is_not_timed(wrong, pass_: str) -> None:
    with pytest.raises(runner.DisagreementError, match=f"square, {pass_}, wrong"):
        list(runner.measure(tiny_case(wrong=Provider(wrong)), CPU, rounds=1))


def test_the_convolution_case_compares_the_same_thing() -> None:
    case = CASES["convolution"](CPU)
    with torch.inference_mode():
        outputs = {name: p.compute(**case.tensors) for name, p in case.providers.items() if p.exact}
    expected = outputs.pop(case.baseline)
    for name, output in outputs.items():
        assert float((output - expected).abs().max() / expected.abs().max()) < runner.TOLERANCE, name
