"""Several processes of one group, as a launcher starts them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

TIMEOUT_S = 120


def _enter(index: int, count: int, folder: Path, job: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.update({"RANK": str(index), "LOCAL_RANK": str(index), "OMP_NUM_THREADS": "1"})
    os.environ.update({"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)})
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=index, world_size=count)
    result = job(*arguments)
    torch.save(result, folder / f"result_{index}.pt")
    dist.destroy_process_group()


def run_together(folder: Path, count: int, job: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Run `job(*arguments)` in each of `count` processes of one group; gives the answers in the order of ranks."""
    folder.mkdir(parents=True, exist_ok=True)
    context = torch.multiprocessing.spawn(_enter, (count, folder, job, arguments), nprocs=count, join=False)
    deadline = time.monotonic() + TIMEOUT_S
    try:
        while not context.join(timeout=1):
            assert time.monotonic() < deadline, f"{job.__name__} hangs"
    finally:
        for process in context.processes:
            process.kill()
    return [torch.load(folder / f"result_{index}.pt", weights_only=False) for index in range(count)]
