"""The benchmark's own promises, at sizes that take no time."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torchvision

from benchmarks import rows as results
from benchmarks.cases import Case, Operators, Setup
from benchmarks.cases.blocks import block, head
from benchmarks.cases.deform_conv import deform_conv
from benchmarks.cases.detector import detector
from benchmarks.gate import WrongResult, check, truth
from benchmarks.plot import save_plot
from benchmarks.precision import PRECISIONS
from benchmarks.providers import BASELINE, PROVIDERS, Provider, exact_way
from benchmarks.report import markdown
from benchmarks.rows import Machine
from benchmarks.runner import PASSES, Skipped, measure
from benchmarks.timing import Clock, percentiles, take_turns
from benchmarks.work import blocks_work, deform_conv_work, level_shapes
from dyzoo.model.detector import Detector

CPU = torch.device("cpu")
HERE = Machine("Some CPU", 1, "2.0", "", "abc")
ROOT = Path(__file__).parents[2]


def setup(dtype: str = "float32", size: int = 40) -> Setup:
    return Setup(size, size, 1, PRECISIONS[dtype], CPU)


def tiny(make: Callable[..., Case], dtype: str = "float32") -> Case:
    return make(setup(dtype), channels=32)


def measured(case: Case, *providers: Provider, pass_: str = "forward") -> tuple[list[results.Row], list[Skipped]]:
    return measure(case, providers, pass_, Clock(CPU), HERE, rounds=1)


def some_row(**changes: object) -> results.Row:
    row = results.Row(
        *("head", "forward", "1x64x64px", "float32", "dyhead_kernels"),
        *(1.0, 1.5, 2.0, None, 0.25, 3.0),
        *("Some CPU", 1, "2.0", "", "abc"),
    )
    return replace(row, **changes)  # type: ignore[arg-type]


def test_work_is_that_of_the_paper_s_head() -> None:
    shapes = level_shapes(800, 1344)
    assert shapes == ((100, 168), (50, 84), (25, 42), (13, 21), (7, 11))
    one = blocks_work(1, shapes, 256, 1, value_bytes=2)
    assert one.flop == pytest.approx(42.4e9, rel=2e-3)
    assert one.bytes == pytest.approx(60e6, rel=0.1)
    six = blocks_work(2, shapes, 256, 6, value_bytes=2)
    assert six.flop == pytest.approx(2 * 254e9, rel=3e-3)
    assert six.of("training step").flop == 3 * six.flop
    assert deform_conv_work(1, (80, 100), 256, 4).flop == pytest.approx(9.44e9, rel=1e-3)


def test_the_detector_s_work_is_that_of_its_network_and_its_blocks() -> None:
    case = detector(setup(size=64), "dyhead_atss_resnet10t")
    in_blocks = blocks_work(1, level_shapes(64, 64), 96, 2, 4).flop
    assert in_blocks < case.work.flop < 100 * in_blocks
    assert case.work.bytes is None


@pytest.mark.parametrize("make", [deform_conv, block])
@pytest.mark.parametrize("pass_", PASSES)
def test_providers_are_timed_side_by_side(make: Callable[..., Case], pass_: str) -> None:
    case = tiny(make)
    chosen = [
        PROVIDERS[key]
        for key in (
            "ours",
            "ours-graph",
            "ours-compiled",
            "ours-reduce-overhead",
            "official-float32",
            "reference",
            "dense",
        )
    ]
    rows, skipped = measured(case, *chosen, pass_=pass_)
    names = ["dyhead_kernels", BASELINE, "reference, float32", "dense 3x3 convolutions (floor)"]
    assert [row.provider for row in rows] == names
    assert {(row.op, row.pass_, row.shape, row.dtype, row.device) for row in rows} == {
        (make.__name__, pass_, "1x40x40px", "float32", "Some CPU")
    }
    for row in rows:
        assert 0 < row.p20_ms <= row.p50_ms <= row.p80_ms
        assert row.peak_mib is None
        assert row.tflop_per_s == pytest.approx(case.work.of(pass_).flop / row.p50_ms / 1e9, abs=1e-4)
    assert {entry.provider: entry.reason for entry in skipped} == {
        "dyhead_kernels, CUDA graph": "CUDA graphs need a GPU",
        "dyhead_kernels, compiled": "torch.compile takes part on a CPU only with --compile",
        "dyhead_kernels, reduce-overhead": "torch.compile takes part on a CPU only with --compile",
    }


def test_a_detector_takes_part_optimised_too_and_nothing_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    case = detector(setup(size=64), "dyhead_atss_resnet10t")
    chosen = [PROVIDERS[key] for key in ("ours", "ours-optimized")]
    rows, skipped = measured(case, *chosen)
    assert [row.provider for row in rows] == ["dyhead_kernels", "dyhead_kernels, optimised"]
    assert skipped == []
    for other, pass_ in ((tiny(block), "forward"), (case, "training step")):
        rows, skipped = measured(other, chosen[1], pass_=pass_)
        assert [entry.reason for entry in skipped] == ["what is optimised is the forward pass of a detector on a CPU"]

    def spoil(model: Detector) -> Detector:
        torch.nn.init.zeros_(model.head.cls.weight)  # type: ignore[arg-type, union-attr]
        return model

    monkeypatch.setattr(Detector, "optimize", spoil)
    rows, skipped = measured(case, chosen[1])
    assert [entry.wrong for entry in skipped] == [True]


@pytest.mark.parametrize("pass_", PASSES)
def test_half_precision_has_the_official_way_in_float32_beside_it(pass_: str) -> None:
    chosen = [PROVIDERS[key] for key in ("ours", "official-float32", "official")]
    rows, skipped = measured(tiny(block, "bfloat16"), *chosen, pass_=pass_)
    assert skipped == []
    assert [row.provider for row in rows] == [
        "dyhead_kernels",
        "torchvision, float32",
        "torchvision, bfloat16 (operator float32)",
    ]


def test_a_provider_for_half_precision_has_no_part_in_float32() -> None:
    assert measured(tiny(deform_conv), PROVIDERS["official"]) == ([], [])


@pytest.mark.parametrize("pass_", PASSES)
def test_detectors_differ_only_in_their_blocks(pass_: str) -> None:
    case = detector(setup(size=64), "dyhead_atss_resnet10t")
    rows, skipped = measured(case, PROVIDERS["ours"], PROVIDERS["official-float32"], pass_=pass_)
    assert skipped == []
    assert len(rows) == 2
    expected = truth(case, pass_)
    if pass_ == "forward":
        assert len(expected) == 15
    else:
        assert {"loss_cls", "gradient of detector.dyhead.blocks.1.offset_weight"} < expected.keys()
        assert not any("backbone" in name for name in expected)


def spoilt(spoil: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Provider:
    """The official way, its output changed by a function of output and weight."""

    def operators(chain: torch.dtype) -> Operators:
        way = exact_way(chain)

        def changed(input, offset, mask, weight, bias, stride=1):
            return spoil(way.deform_conv(input, offset, mask, weight, bias, stride), weight)

        return replace(way, deform_conv=changed)

    return Provider("spoilt", "spoilt", operators)


@pytest.mark.parametrize(
    ("spoil", "pass_", "what"),
    [
        (lambda output, weight: output * 1.01, "forward", "output 0 is off by 1.0e-02"),
        (lambda output, weight: output.index_fill(3, torch.tensor(4), torch.nan), "forward", "output 0 is off by nan"),
        (lambda output, weight: output[..., :-1], "forward", "output 0 is off by nan"),
        (lambda output, weight: output + weight.sum() - weight.sum().detach(), "training step", "gradient of weight"),
    ],
)
def test_a_wrong_provider_is_not_timed_and_stops_nobody(spoil, pass_: str, what: str) -> None:
    rows, skipped = measured(tiny(deform_conv), spoilt(spoil), PROVIDERS["official-float32"], pass_=pass_)
    assert [row.provider for row in rows] == [BASELINE]
    (entry,) = skipped
    assert (entry.provider, entry.pass_, entry.wrong) == ("spoilt", pass_, True)
    assert entry.reason.startswith(f"wrong: {what}")


def test_half_precision_is_no_excuse() -> None:
    wrong = replace(spoilt(lambda output, weight: output * 1.2), in_float32=True)
    rows, skipped = measured(tiny(deform_conv, "bfloat16"), wrong)
    assert rows == []
    assert skipped[0].reason == "wrong: output 0 is off by 2.0e-01 of its norm, tolerance 1e-01"


def test_the_gate_wants_the_same_tensors() -> None:
    expected = {"output 0": torch.ones(3), "gradient of x": torch.ones(3)}
    check(expected, expected, "float32")
    with pytest.raises(WrongResult, match="gives output 0, expected output 0, gradient of x"):
        check({"output 0": torch.ones(3)}, expected, "float32")


def test_a_gradient_that_is_zero_but_for_rounding_may_differ() -> None:
    large, nothing = torch.ones(100), torch.full((10,), 1e-12)
    expected = {"gradient of weight": large, "gradient of bias": nothing}
    check({"gradient of weight": large, "gradient of bias": -nothing}, expected, "float32")
    with pytest.raises(WrongResult, match="gradient of bias"):
        check({"gradient of weight": large, "gradient of bias": nothing + 1}, expected, "float32")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("no kernel\nand a long story"), "failed: RuntimeError: no kernel"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "out of memory"),
    ],
)
def test_a_provider_that_fails_is_listed_with_the_reason(error: Exception, reason: str) -> None:
    def fail(chain: torch.dtype) -> Operators:
        raise error

    rows, skipped = measured(tiny(deform_conv), Provider("failing", "failing", fail), PROVIDERS["official-float32"])
    assert [row.provider for row in rows] == [BASELINE]
    assert [(entry.provider, entry.reason, entry.wrong) for entry in skipped] == [("failing", reason, False)]


@pytest.mark.parametrize(("key", "module"), [("deformops", "deformops"), ("mmcv", "mmcv")])
def test_a_package_that_is_not_installed_is_skipped(monkeypatch: pytest.MonkeyPatch, key: str, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    rows, skipped = measured(tiny(deform_conv), PROVIDERS[key])
    assert rows == []
    assert skipped[0].reason.startswith(f"{module} is not installed: ")


def test_a_package_that_is_installed_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    drop_in = ModuleType("deformops.integrations.torchvision")
    drop_in.deform_conv2d = torchvision.ops.deform_conv2d  # type: ignore[attr-defined]
    ops = ModuleType("mmcv.ops")

    def modulated_deform_conv2d(input, offset, mask, weight, bias, stride, padding, dilation, groups, offset_groups):
        assert (dilation, groups, offset_groups) == (1, 1, 1)
        return torchvision.ops.deform_conv2d(input, offset, weight, bias, stride, padding, mask=mask)

    ops.modulated_deform_conv2d = modulated_deform_conv2d  # type: ignore[attr-defined]
    for module in (drop_in, ops):
        for name in (module.__name__.split(".")[0], module.__name__):
            monkeypatch.setitem(sys.modules, name, module)
    rows, skipped = measured(tiny(block), PROVIDERS["deformops"], PROVIDERS["mmcv"])
    assert [row.provider for row in rows] == ["deformops", "mmcv"]
    assert skipped == []


def test_turns_go_round_and_one_that_fails_late_drops_out() -> None:
    calls = iter(range(1000))

    def fails_later() -> None:
        if next(calls) > 120:
            raise torch.OutOfMemoryError

    turns = list(take_turns({"a": lambda: None, "b": fails_later}, Clock(CPU), 3, lambda name: None))
    assert [name for name, _ in turns] == ["a", "b", "a", "b", "a"]
    assert isinstance(turns[3][1], torch.OutOfMemoryError)
    assert all(len(taken) == 100 for name, taken in turns if name == "a")


def test_percentiles() -> None:
    times = percentiles([5.0, 1.0, 2.0, 4.0, 3.0, 6.0])
    assert (times.p20, times.p50, times.p80) == (2.0, 3.5, 5.0)
    assert percentiles([2.0]).p80 == 2.0


def test_rows_are_appended_and_read_back(tmp_path: Path) -> None:
    rows = [some_row(), some_row(provider="other", peak_mib=2.5, tflop_per_s=None)]
    path = results.append(rows, tmp_path / "new")
    assert path == tmp_path / "new" / "some-cpu.csv"
    slower = some_row(p50_ms=1.75)
    assert results.append([slower], tmp_path / "new") == path
    assert results.read(path) == [*rows, slower]
    assert results.latest(results.read(path)) == [slower, rows[1]]


def test_a_file_with_other_columns_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "some-cpu.csv"
    path.write_text("op,pass\nhead,forward\n")
    for use in (lambda: results.append([some_row()], tmp_path), lambda: results.read(path)):
        with pytest.raises(results.ResultsError, match=r"has the columns op,pass, expected op,pass,shape.*--out") as e:
            use()
        assert "\n" not in str(e.value)
    assert path.read_text() == "op,pass\nhead,forward\n"


def test_a_damaged_row_is_named(tmp_path: Path) -> None:
    path = results.append([some_row()], tmp_path)
    path.write_text(path.read_text() + "head,forward\n")
    with pytest.raises(results.ResultsError, match="line 3 is no measurement"):
        results.read(path)


def test_rows_of_a_case_s_former_name_are_read_under_its_new_one(tmp_path: Path) -> None:
    path = results.append([some_row(op="convolution"), some_row(op="head")], tmp_path)
    assert [row.op for row in results.read(path)] == ["deform_conv", "head"]


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("*.csv")), ids=lambda path: path.name)
def test_the_kept_results_can_be_read_and_shown(path: Path, tmp_path: Path) -> None:
    rows = results.latest(results.read(path))
    assert "| dyhead_kernels |" in markdown(rows)
    save_plot(rows, tmp_path / "plot.png")


def test_tables_compare_with_the_official_way() -> None:
    peaks = some_row(op="machine", pass_="matrix product", provider="torch", tflop_per_s=0.1)
    rows = [peaks, some_row(provider=BASELINE, p50_ms=6.0, peak_mib=30.0), some_row()]
    skipped = [Skipped("head", "forward", "1x64x64px", "float32", "mmcv", "mmcv is not installed")]
    lines = markdown(rows, skipped).splitlines()
    assert lines[2] == "| dyhead_kernels | 1.50 | 1.00..2.00 | 4.00 |  | 0.250 | 3.00 |"
    assert lines[3] == f"| {BASELINE} | 6.00 | 1.00..2.00 | 1.00 | 30 | 0.250 | 3.00 |"
    assert "This machine's peaks: matrix product float32 0.100 TFLOP/s." in lines
    assert lines[-1] == "- **mmcv**: mmcv is not installed"


def test_the_plot_is_a_png_whatever_the_rows(tmp_path: Path) -> None:
    rows = [
        some_row(op=op, pass_=pass_, shape=shape, provider=provider.name(PRECISIONS["bfloat16"]), p50_ms=1.2)
        for op in ("deform_conv", "head", "an old case")
        for pass_ in PASSES
        for shape in ("1x64x64px", "8x64x64px")
        for provider in PROVIDERS.values()
    ]
    save_plot([*rows, some_row(provider="an old provider")], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match="no row to plot"):
        save_plot([], tmp_path / "none.png")


def test_a_stack_of_six_blocks_stays_within_the_gate() -> None:
    rows, skipped = measured(head(setup(), channels=32, blocks=6), PROVIDERS["ours"], pass_="training step")
    assert skipped == []
    assert [row.op for row in rows] == ["head"]
