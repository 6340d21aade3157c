"""The steps of a report, in the order of what has to be known first."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from dyhead_kernels.static.cards import card_of

CHECKOUT = Path(__file__).parents[2]
PREDICTED = "predicted.csv"
TABLES = "tables"
PYTEST = "pytest"
GRAPHS = "model/test_graphs_on_gpu.py"  # graphs of whole detectors; the others are of the kernels
SECONDS = "{seconds}"
"""Stands in a command for the seconds that the step may take."""


@dataclass(frozen=True)
class Step:
    """A step of the report.

    Attributes:
        name: a word for it, by which its log and its state are found.
        title: what it finds out.
        minutes: its share of the time, beside those of the others.
        command: what runs it; empty if it is left out.
        reason: why it is left out.
        least_seconds: with less than that it is not begun.
        folder: where the command runs; None for where the report does.
    """

    name: str
    title: str
    minutes: float
    command: tuple[str, ...] = ()
    reason: str = ""
    least_seconds: float = 20.0
    folder: Path | None = None


def plan(out: Path, device: torch.device, device_name: str, size: str) -> list[Step]:
    """The steps for a device, those that it cannot take with the reason.

    Args:
        device_name: as PyTorch has it; empty for a GPU that is not here, whose plan is only looked at.
    """
    on_gpu = device.type == "cuda"
    place, folder = ("--device", str(device)), ("--out", str(out))
    dtype = "bfloat16" if on_gpu else "float32"
    measured = ("--size", size, "--dtype", dtype, *place, *folder)
    card = card_of(device_name) or ("" if on_gpu and device_name else "H100")
    tests = CHECKOUT / "tests" / "kernels"
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")

    no_gpu = "" if on_gpu else "it needs a GPU"
    no_tests = no_gpu or ("" if tests.is_dir() else f"there is no {tests}: run from a checkout")
    no_tool = "" if sanitizer else "compute-sanitizer is not installed"
    no_model = "" if card else f"there is no time model of {device_name}"

    def step(name: str, title: str, minutes: float, reason: str, *command: str, folder: Path | None = None) -> Step:
        return Step(name, title, minutes, () if reason else command, reason, folder=folder)

    return [
        step("machine", "versions, clocks, peaks", 1, "", *_bench("gpu-report-step", "machine", *place, *folder)),
        step(
            "predict",
            "the time model's predictions; also compiles the kernels",
            2,
            no_model,
            *_bench("predict", "--card", card, "--dtype", "bfloat16", "--out", str(out / PREDICTED)),
        ),
        step(
            "tests",
            "right numbers: the tests marked gpu, but for the sanitizer's",
            6,
            no_tests,
            *(sys.executable, "-m", PYTEST, str(tests), str(tests.parent / GRAPHS), "-m", "gpu"),
            *("-k", "not sanitizer", "-q", "-x"),
            folder=CHECKOUT,
        ),
        step(
            "compiled",
            "a block under torch.compile(mode='reduce-overhead')",
            2,
            no_gpu,
            *_bench("run", "block", *measured, *_providers("ours", "ours-reduce-overhead")),
        ),
        step(
            "head",
            "six blocks forward: eager, as a CUDA graph, and the dense floor",
            4,
            "",
            *_bench("run", "head", "--pass", "forward", *measured, *_providers("ours", "ours-graph", "dense")),
        ),
        step(
            "launches",
            "every launch of a block alone, as a CUDA graph",
            4,
            no_gpu,
            *_bench("gpu-report-step", "launches", "--size", size, *place, *folder),
        ),
        step(
            "tune",
            "launch parameters of the deformable convolution",
            5,
            no_gpu,
            *_bench("tune", "deform_conv_forward", "deform_conv_backward", "--dtype", dtype, "--size", size, *place),
            *("--seconds", SECONDS, "--out", str(out / TABLES)),
        ),
        step(
            "sanitizer",
            "compute-sanitizer: no access outside of allocations",
            4,
            no_tests or no_tool,
            *(sys.executable, "-m", PYTEST, str(tests / "test_sanitizer.py"), "-m", "gpu", "-k", "memcheck", "-q"),
            folder=CHECKOUT,
        ),
    ]


def _bench(*arguments: str) -> tuple[str, ...]:
    """A command of the benchmarks in a process of its own, from a checkout or from what is installed."""
    return (sys.executable, "-m", "dyzoo", "bench", *arguments)


def _providers(*keys: str) -> tuple[str, ...]:
    return tuple(word for key in keys for word in ("--provider", key))
