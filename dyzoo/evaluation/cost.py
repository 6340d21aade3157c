"""Time, size and memory that running a model takes, measured while it is evaluated."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

WARM_UP_BATCHES = 3
"""The first batches, slower by allocations and by choices of algorithms, are not timed..."""

TIMED_BATCHES = 5
"""...where at least so many are left."""

_MEGABYTE = 1e6
_GPU_MEMORY = "peak GPU memory allocated"
_PROCESS_MEMORY = "peak resident memory of the process"


@dataclass(frozen=True)
class Cost:
    """Time and memory that one process took to detect in the images of an evaluation.

    Time is that of preprocessing, network and postprocessing, without reading the files. An image's time is its
    batch's divided by the images in it.

    Attributes:
        device: "cpu", "cuda:0", ... with the name of the chip; None for a predictor that does not say where it runs.
        threads: threads of PyTorch on the CPU; None on other devices.
        parameters: numbers in the model's parameters; None for a predictor that is no torch module.
        weights_mb: 1e6 bytes of parameters and buffers in memory; None likewise.
        batch_size: images in a batch, at most.
        images: how many were timed; 0 where none could be read, and then there are no times.
        warm_up_images: how many came before and were not.
        median_ms, p95_ms: median and 95th percentile of an image's time.
        images_per_s: images timed over the time of all of them.
        peak_memory_mb: 1e6 bytes; None where it cannot be found out.
        memory_kind: which memory `peak_memory_mb` counts: on CUDA devices the most that tensors took during the
            evaluation, elsewhere the resident memory of the whole process, all its libraries included.
    """

    device: str | None
    threads: int | None
    parameters: int | None
    weights_mb: float | None
    batch_size: int
    images: int
    warm_up_images: int
    median_ms: float | None
    p95_ms: float | None
    images_per_s: float | None
    peak_memory_mb: float | None
    memory_kind: str

    def facts(self) -> list[tuple[str, str]]:
        """Label and value for people; what is not known has a dash."""
        left_out = f" after {self.warm_up_images} to warm up" if self.warm_up_images else ""
        threads = "" if self.threads is None else f", {self.threads} thread{'s' if self.threads != 1 else ''}"
        return [
            ("device", "-" if self.device is None else self.device + threads),
            ("parameters", "-" if self.parameters is None else _count(self.parameters)),
            ("weights", _amount(self.weights_mb, "MB")),
            ("images timed", f"{self.images}{left_out}, {self.batch_size} at a time"),
            ("time an image, median", _amount(self.median_ms, "ms")),
            ("time an image, 95th percentile", _amount(self.p95_ms, "ms")),
            ("images a second", "-" if self.images_per_s is None else f"{self.images_per_s:.3g}"),
            (self.memory_kind, "-" if self.peak_memory_mb is None else f"{self.peak_memory_mb:.0f} MB"),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class Stopwatch:
    """Times batches and watches the memory; made before the first one, as it begins a new peak of memory.

    Args:
        model: any predictor; what it does not tell of itself stays unknown.
        batch_size: images in a batch, at most.
    """

    def __init__(self, model: object, batch_size: int) -> None:
        self.model = model
        self.batch_size = batch_size
        self.device = _device(model)
        self.batches: list[tuple[int, float]] = []  # images, seconds
        if self._on_cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            reset_peak_resident()

    @contextmanager
    def batch(self, images: int) -> Iterator[None]:
        """Time what is done inside, until the device has finished it."""
        self._wait()
        start = time.perf_counter()
        yield
        self._wait()
        if images:
            self.batches.append((images, time.perf_counter() - start))

    def cost(self) -> Cost:
        """The cost measured so far."""
        skipped = WARM_UP_BATCHES if len(self.batches) >= WARM_UP_BATCHES + TIMED_BATCHES else 0
        timed = self.batches[skipped:]
        counts = np.array([images for images, _ in timed], dtype=np.int64)
        seconds = np.array([spent for _, spent in timed])
        an_image_ms = np.repeat(1e3 * seconds / counts, counts)
        peak = torch.cuda.max_memory_allocated(self.device) if self._on_cuda else peak_resident()
        module = self.model if isinstance(self.model, nn.Module) else None
        weights = None if module is None else [*module.parameters(), *module.buffers()]
        return Cost(
            device=None if self.device is None else _described(self.device),
            threads=torch.get_num_threads() if self.device is not None and self.device.type == "cpu" else None,
            parameters=None if module is None else sum(p.numel() for p in module.parameters()),
            weights_mb=None if weights is None else sum(w.numel() * w.element_size() for w in weights) / _MEGABYTE,
            batch_size=self.batch_size,
            images=int(counts.sum()),
            warm_up_images=sum(images for images, _ in self.batches[:skipped]),
            median_ms=float(np.median(an_image_ms)) if timed else None,
            p95_ms=float(np.percentile(an_image_ms, 95)) if timed else None,
            images_per_s=float(counts.sum() / seconds.sum()) if timed and seconds.sum() > 0 else None,
            peak_memory_mb=None if peak is None else peak / _MEGABYTE,
            memory_kind=_GPU_MEMORY if self._on_cuda else _PROCESS_MEMORY,
        )

    @property
    def _on_cuda(self) -> bool:
        return self.device is not None and self.device.type == "cuda"

    def _wait(self) -> None:
        if self.device is not None and self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        elif self.device is None and torch.cuda.is_initialized():  # whatever is behind it may well run there
            torch.cuda.synchronize()


def _device(model: object) -> torch.device | None:
    if isinstance(model, nn.Module):
        tensor = next(model.parameters(), None)
        return None if tensor is None else tensor.device
    said = getattr(model, "device", None)
    return said if isinstance(said, torch.device) else None


def _described(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    chip = _processor() if device.type == "cpu" else ""
    return f"{device} ({chip})" if chip else str(device)


def _processor() -> str:
    """The processor's name, where the system tells."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def reset_peak_resident() -> None:
    """Let the peak begin at what is resident now, where the system can (Linux, proc(5)); elsewhere it is the run's."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_resident() -> int | None:
    """Bytes of the process's largest resident memory; None where the system does not tell."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _count(value: int) -> str:
    return f"{value / 1e6:.2f} M" if value >= 1e5 else f"{value:,}"


def _amount(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    return f"{value:.0f} {unit}" if value >= 1000 else f"{value:.3g} {unit}"
