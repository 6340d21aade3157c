"""One detector in several runtimes, from a picture's pixels to detections, taking turns in one run."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import dyzoo
from dyzoo.errors import DyzooError, first_line
from dyzoo.evaluation.cost import peak_resident, reset_peak_resident
from dyzoo.export.options import SUFFIXES, Format
from dyzoo.model.detector import Detector
from dyzoo.model.fixed_size import FixedSizeDetector
from dyzoo.model.preprocess import batch_images

from .report import digits
from .timing import Clock, Percentiles, percentiles, take_turns

FORMATS: dict[str, Format] = {"onnxruntime": "onnx", "OpenVINO": "openvino"}
EAGER, OPTIMIZED, COMPILED = "PyTorch", "PyTorch, optimised", "PyTorch, compiled"

Note = Callable[[str], None]
Run = Callable[[], Any]


@dataclass(frozen=True)
class Measured:
    """Time and memory that a runtime took.

    Attributes:
        times: of a picture.
        load_s, first_s: making it ready, and the first picture, compilation included.
        peak_mib: what the process's memory grew by at most until the first picture was done; None where the system
            does not tell. What a runtime before has left behind is not counted again.
        size_mb: 1e6 bytes of weights or of the files.
    """

    runtime: str
    times: Percentiles
    load_s: float
    first_s: float
    peak_mib: float | None
    size_mb: float


def measure(
    model: str, files: Sequence[Path], size: tuple[int, int], rounds: int, compile_: bool, note: Note
) -> tuple[list[Measured], list[str]]:
    """Time a detector in every runtime that is here; a line for each that is not.

    Args:
        model: as for `dyzoo.load`.
        files: exported detectors; without any, the model is exported to every one of `FORMATS`.
        size: (H, W) of the picture in pixels, which is not resized.
    """
    detector = dyzoo.load(model)
    if not isinstance(detector, Detector):
        raise DyzooError(f"{model} is exported already: name the detector in PyTorch, and the file with --exported")
    picture = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    weights_mb = sum(w.numel() * w.element_size() for w in detector.state_dict().values()) / 1e6
    skipped: list[str] = []
    with tempfile.TemporaryDirectory(prefix="dyzoo_") as folder:
        exported = list(files) or _export(detector, Path(folder), skipped, note)
        makers: dict[str, tuple[Callable[[], Run], float]] = {
            EAGER: (lambda: lambda: detector([picture]), weights_mb),
            OPTIMIZED: (lambda: partial(detector.optimize(), [picture]), weights_mb),
        }
        if compile_:
            makers[COMPILED] = (lambda: _compiled(detector, picture), weights_mb)
        for file in exported:
            name = str(file) if files else file.name  # two folders may have files of one name
            makers[name] = (partial(_loaded, file, picture, detector), _size_mb(file))
        runs: dict[str, Run] = {}
        facts: dict[str, tuple[float, float, float | None, float]] = {}
        with torch.inference_mode():
            for name, (make, size_mb) in makers.items():
                note(f"loading {name}")
                try:
                    runs[name], *took = _first(make)
                    facts[name] = (*took, size_mb)  # type: ignore[assignment]
                except Exception as error:  # whatever another package raises
                    skipped.append(f"{name}: {first_line(error)}")
            samples: dict[str, list[float]] = {name: [] for name in runs}
            clock = Clock(torch.device("cpu"))
            for name, taken_ms in take_turns(runs, clock, rounds, lambda name: note(f"timing {name}")):
                if isinstance(taken_ms, Exception):
                    skipped.append(f"{name}: {first_line(taken_ms)}")
                    del samples[name]
                else:
                    samples[name] += taken_ms
    return [Measured(name, percentiles(taken), *facts[name]) for name, taken in samples.items()], skipped


def table(measured: Sequence[Measured]) -> str:
    """Markdown, the fastest first."""
    lines = [
        "| runtime | median ms | p20..p80 | loaded after s | first picture s | peak MiB | weights or files MB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for each in sorted(measured, key=lambda one: one.times.p50):
        cells = [
            each.runtime,
            digits(each.times.p50),
            f"{digits(each.times.p20)}..{digits(each.times.p80)}",
            digits(each.load_s),
            digits(each.first_s),
            "" if each.peak_mib is None else f"{each.peak_mib:.0f}",
            f"{each.size_mb:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _export(detector: Detector, folder: Path, skipped: list[str], note: Note) -> list[Path]:
    made = []
    for runtime, to in FORMATS.items():
        note(f"exporting for {runtime}")
        path = folder / f"{runtime}{SUFFIXES[to]}"
        try:
            detector.export(path, to=to)
        except DyzooError as error:
            skipped.append(f"{runtime}: {error}")
        else:
            made.append(path)
    return made


def _size_mb(file: Path) -> float:
    weights = file.with_suffix(".bin")
    return (file.stat().st_size + (weights.stat().st_size if file.suffix == ".xml" else 0)) / 1e6


def _loaded(file: Path, picture: Tensor, detector: Detector) -> Run:
    model = dyzoo.load(file)
    if model.config != detector.config:
        raise DyzooError(f"{file} is of another detector, {model.config.architecture}: export the one that is timed")
    return lambda: model([picture])


def _compiled(detector: Detector, picture: Tensor) -> Run:
    network = torch.compile(FixedSizeDetector(detector), dynamic=False)

    def run() -> Any:
        batch, sizes = batch_images([picture], detector.config.preprocess, detector.device)
        return network(batch, torch.tensor(sizes))

    return run


def _first(make: Callable[[], Run]) -> tuple[Run, float, float, float | None]:
    """The run, the seconds that it took to make it and to run it once, and the memory in MiB."""
    gc.collect()
    reset_peak_resident()
    before = peak_resident()
    started = time.perf_counter()
    run = make()
    loaded = time.perf_counter()
    run()
    done = time.perf_counter()
    peak = peak_resident()
    grown = None if before is None or peak is None else (peak - before) / 2**20
    return run, loaded - started, done - loaded, grown
