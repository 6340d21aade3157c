"""Timing: providers take turns in one run, and none is timed before it agrees with the baseline."""

from __future__ import annotations

import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.cases import Case, Provider

TOLERANCE = 1e-3
"""Largest error accepted by the gate, relative to the tensor's largest value. Gradients through six blocks in float32
differ by 2e-4 between orders of summation; a wrong formula shows at 1e-1."""


class DisagreementError(RuntimeError):
    """A provider computes something else than the baseline; it is not timed."""


@dataclass(frozen=True)
class Row:
    """One measurement; stands alone."""

    op: str
    pass_: str
    shape: str
    dtype: str
    provider: str
    p20_ms: float
    p50_ms: float
    p80_ms: float
    peak_mib: float | None
    device: str
    threads: int
    torch: str
    triton: str
    commit: str


def measure(case: Case, device: torch.device, rounds: int) -> Iterable[Row]:
    """Time every provider of a case, forward and training step, in `rounds` rounds of taking turns.

    Raises:
        DisagreementError: an exact provider's output or gradients differ from the baseline's.
    """
    for pass_, run in PASSES.items():
        expected = run(case, case.providers[case.baseline])
        for name, provider in case.providers.items():
            if provider.exact:
                _check(f"{case.op}, {pass_}, {name}", run(case, provider), expected)
        seconds: dict[str, list[float]] = {name: [] for name in case.providers}
        peaks: dict[str, float | None] = {}
        for round_ in range(rounds + 1):
            for name, provider in case.providers.items():
                taken_s, peaks[name] = _timed(partial(run, case, provider), device)
                if round_ > 0:  # the first round warms up
                    seconds[name].append(taken_s)
        for name, taken in seconds.items():
            p20, p50, p80 = _percentiles(taken)
            yield Row(
                op=case.op,
                pass_=pass_,
                shape=case.shape,
                dtype="float32",
                provider=name,
                p20_ms=round(1e3 * p20, 3),
                p50_ms=round(1e3 * p50, 3),
                p80_ms=round(1e3 * p80, 3),
                peak_mib=peaks[name],
                device=device_name(device),
                threads=torch.get_num_threads(),
                torch=torch.__version__,
                triton=_version("triton"),
                commit=_commit(),
            )


def _forward(case: Case, provider: Provider) -> list[Tensor]:
    with torch.inference_mode():
        return [provider.compute(**case.tensors)]


def _training_step(case: Case, provider: Provider) -> list[Tensor]:
    output = provider.compute(**case.tensors)
    seed = torch.linspace(-1, 1, output.numel(), device=output.device).view(output.shape)
    leaves = list(case.tensors.values())
    gradients = torch.autograd.grad(output, leaves, seed, allow_unused=not provider.exact)
    return [output.detach(), *(gradient for gradient in gradients if gradient is not None)]


PASSES = {"forward": _forward, "training step": _training_step}


def _check(what: str, found: list[Tensor], expected: list[Tensor]) -> None:
    for index, (a, b) in enumerate(zip(found, expected, strict=True)):
        error = float((a - b).abs().max() / b.abs().max().clamp(min=torch.finfo(b.dtype).tiny))
        if not error <= TOLERANCE:
            raise DisagreementError(f"{what}: tensor {index} is off by {error:.1e} of the largest value; not timed")


def _timed(run: Callable[[], object], device: torch.device) -> tuple[float, float | None]:
    """Seconds, and the peak of the GPU's memory in MiB; a CPU keeps no such count."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if on_gpu:
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    return seconds, torch.cuda.max_memory_allocated(device) / 2**20 if on_gpu else None


def _percentiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    fifths = statistics.quantiles(values, n=5, method="inclusive")
    return fifths[0], statistics.median(values), fifths[3]


def device_name(device: torch.device) -> str:
    """What the rows were measured on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return found.stdout.strip()
