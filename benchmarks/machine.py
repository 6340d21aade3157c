"""The machine that rows are measured on, and its best speed: a large matrix product and a large copy."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from .precision import Precision, tf32
from .rows import Machine, Row
from .timing import Clock, percentiles

OP = "machine"
PRODUCT_SIDE = {"cpu": 2048, "cuda": 8192}
COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}
RUNS = 5


def machine(device: torch.device) -> Machine:
    """This machine, these versions."""
    return Machine(device_name(device), torch.get_num_threads(), torch.__version__, _version("triton"), _commit())


def device_name(device: torch.device) -> str:
    """The vendor's name of the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def peaks(precision: Precision, clock: Clock, where: Machine) -> list[Row]:
    """Rows of the largest matrix product and copy: what TFLOP/s and GB/s can be held against."""
    device, kind = clock.device, clock.device.type
    side = PRODUCT_SIDE[kind]
    left, right = (torch.randn(side, side, device=device).to(precision.dtype) for _ in range(2))
    source = torch.ones(COPY_BYTES[kind], dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    with tf32(precision.tf32_matmul, precision.tf32_cudnn):
        product = _median_row("matrix product", f"{side}x{side}x{side}", precision, clock, where, lambda: left @ right)
    copy = _median_row("copy", f"{len(source) >> 20}MiB", precision, clock, where, lambda: target.copy_(source))
    return [
        product.with_rates(flop=2.0 * side**3, bytes_=None),
        copy.with_rates(flop=None, bytes_=2.0 * len(source)),  # read and written
    ]


def _median_row(pass_: str, shape: str, precision: Precision, clock: Clock, where: Machine, run: object) -> Row:
    assert callable(run)
    clock.samples(run, 1)
    times = percentiles(clock.samples(run, RUNS))
    return Row.of(OP, pass_, shape, precision.name, "torch", times, None, where)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@cache
def _commit() -> str:
    """The commit of a checkout, the version of an installed package."""
    folder = Path(__file__).parent
    if (folder.parent / "pyproject.toml").is_file():
        command = ["git", "describe", "--always", "--dirty"]
        try:
            found = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        except OSError:  # no git
            return ""
        return found.stdout.strip()
    return _version("dyzoo")
