"""Steps of a report that no other command has: what machine it is, and every launch alone."""

from __future__ import annotations

import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from dyhead_kernels.launch.launching import Launch, recording

from dyzoo.errors import first_line
from dyzoo.files import write_text

from .. import rows as results
from ..machine import machine, peaks
from ..precision import PRECISIONS
from ..predicted import LAUNCH
from ..timing import Clock, percentiles
from ..work import level_shapes
from .summary import FACTS

if TYPE_CHECKING:
    from ..tune.problem import Problem

CHANNELS = 256
ROUNDS = 10
QUERY = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu,ecc.mode.current"


def describe(device: torch.device, out: Path) -> None:
    """Write versions and clocks, then measure the machine's peaks."""
    where = machine(device)
    facts = [
        f"{where.device}, torch {where.torch}, triton {where.triton or 'none'}, commit {where.commit or 'unknown'}."
    ]
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts.append(
            f"{properties.multi_processor_count} multiprocessors, {properties.total_memory / 2**30:.0f} GiB, L2 "
            f"{properties.L2_cache_size / 2**20:.0f} MiB, CUDA {torch.version.cuda or torch.version.hip}."
        )
        facts.append(_clocks())
    write_text(out / FACTS, "\n".join(facts) + "\n")
    for name in ("bfloat16", "tf32") if device.type == "cuda" else ("float32",):
        results.append(peaks(PRECISIONS[name], Clock(device), where), out)
    print("\n".join(facts))


def _clocks() -> str:
    """One line of what nvidia-smi says of every GPU that it sees."""
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "nvidia-smi does not answer."
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    return f"{QUERY}: {'; '.join(lines) or 'nvidia-smi says nothing'}"


def time_launches(device: torch.device, size: tuple[int, int], out: Path) -> list[str]:
    """Time every launch of a block alone, its row written at once, and give the names of those that were not timed.

    Launches that `out` already has rows of are left out.
    """
    from dyhead_kernels.launch import tuning
    from dyhead_kernels.static.jobs import recorded

    from ..tune.problem import Problem, Run
    from ..tune.timing import GpuTimer

    dtype, (height, width) = "bfloat16", size
    passes = recorded(dtype, CHANNELS, tuning.architecture_of(device))
    pass_of = {launch.name: pass_ for pass_, own in passes.items() for launch in own.launches}
    where, shape, timer = machine(device), f"1x{height}x{width}px", GpuTimer(device)
    path = results.path_for(where.device, out)
    known = {row.key for row in (results.read(path) if path.is_file() else [])}
    missing = {name for name, pass_ in pass_of.items() if (LAUNCH, pass_, shape, dtype, name) not in known}
    for launch in block_launches(Problem(level_shapes(*size), CHANNELS, PRECISIONS[dtype].dtype, device)):
        if launch.name not in missing:
            continue
        try:
            times = percentiles(timer([Run((launch,))], ROUNDS)[0])
        except Exception as error:
            if device.type == "cuda":
                torch.cuda.synchronize(device)  # raises where the GPU has given up: no other launch would run either
            print(f"{launch.name} does not run: {first_line(error)}", flush=True)
            continue
        results.append(
            [results.Row.of(LAUNCH, pass_of[launch.name], shape, dtype, launch.name, times, None, where)], out
        )
        missing.remove(launch.name)
        print(f"{launch.name}: {1e3 * times.p50:.1f} us", flush=True)
    return sorted(missing)


def block_launches(problem: Problem) -> Iterator[Launch]:
    """Every launch of a block with the tensors that it gets there, by the operations that the tuner knows."""
    from ..tune.problem import OPERATIONS, results

    seen = set()
    for operation in OPERATIONS.values():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results(operation, problem)  # computes what it reads
            with recording() as launches:
                operation.run(problem)
        for launch in launches:
            if launch.name not in seen and launch.name in (*operation.launched, *operation.timed_with):
                seen.add(launch.name)
                yield launch
