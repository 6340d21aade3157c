"""Time of each step of a block, forward and backward: offsets, deform_conv, attention, mix.

A block's form runs as it is, its steps one after the other; each call of a step is timed where the form makes it. On a
GPU that is the time from its first kernel to its last, gaps included: small maps show the host's speed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FunctionType, ModuleType
from typing import Any, cast

import torch
from dyhead_kernels import Pyramid
from dyhead_kernels.backends import ENVIRONMENT_VARIABLE, check_triton, form_of, resolve_backend
from dyhead_kernels.dyhead_block.layout import BranchLayout

from dyzoo.errors import DyzooError

from .cases import Setup
from .cases.blocks import OFFSET_MODE, StackOfLevels, block, parameters_of
from .cases.case import CHANNELS
from .timing import percentiles
from .work import NORM_GROUPS

STEPS = ("offsets", "deform_conv", "attention", "mix")
PASSES = ("forward", "backward")


class StepsError(DyzooError, RuntimeError):
    """Steps that cannot be timed."""


Note = Callable[[str, Callable[[], Any]], Any]
"""A step and a call of it -> what the call returns."""


def measure(setup: Setup, rounds: int, channels: int = CHANNELS) -> dict[tuple[str, str], list[float]]:
    """Milliseconds of each step and pass in each round; one round more goes before, untimed.

    Raises:
        StepsError: the form that is chosen for the device has no steps, or cannot run here.
    """
    form = _form(setup)
    run = _block(setup, channels, form)
    found: dict[tuple[str, str], list[float]] = {(step, pass_): [] for pass_ in PASSES for step in STEPS}
    for index in range(rounds + 1):
        for pass_ in PASSES:
            stopwatch = _Stopwatch(setup.device)
            with _watched(form, stopwatch.call):
                run[pass_]()
            spent = stopwatch.read()
            if index > 0:
                for step in STEPS:
                    found[step, pass_].append(spent[step])
    return found


def table(found: dict[tuple[str, str], list[float]]) -> str:
    """A Markdown table of the percentiles."""
    lines = ["| step | pass | p50 ms | p20..p80 ms |", "|---|---|---:|---:|"]
    for (step, pass_), taken_ms in found.items():
        at = percentiles(taken_ms)
        lines.append(f"| {step} | {pass_} | {at.p50:.3f} | {at.p20:.3f}..{at.p80:.3f} |")
    return "\n".join(lines)


def _form(setup: Setup) -> ModuleType:
    try:
        backend = resolve_backend("auto", setup.device)
        if backend == "triton":
            check_triton(setup.device, setup.precision.dtype)
    except (ValueError, TypeError, RuntimeError) as error:
        raise StepsError(str(error)) from None
    if backend == "reference":
        raise StepsError(f"the reference has no steps to time: unset {ENVIRONMENT_VARIABLE}, or set it to torch")
    return form_of("dyhead_block", backend)


def _block(setup: Setup, channels: int, form: ModuleType) -> dict[str, Callable[[], Any]]:
    """The two passes of the benchmark's block in a form, called like its operators do."""
    case, dtype = block(setup, channels), setup.precision.dtype
    parameters = parameters_of(cast(StackOfLevels, case.network).stack.blocks[0])
    parameters = replace(parameters, conv_weight=parameters.conv_weight.to(dtype))
    pyramid = Pyramid.from_levels([level.to(dtype) for level in case.activations.values()])
    chosen = (parameters, BranchLayout(pyramid.shapes), OFFSET_MODE, NORM_GROUPS)
    with torch.no_grad():
        output, state = form.forward(pyramid.values, *chosen)

    def forward() -> None:
        with torch.no_grad():
            form.forward(pyramid.values, *chosen)

    def backward() -> None:
        with torch.no_grad():
            form.backward(torch.ones_like(output), pyramid.values, *chosen, state, (True, True))

    return {"forward": forward, "backward": backward}


class _Stopwatch:
    """Adds up the time of calls by step: wall time on a CPU, CUDA events on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._wall = dict.fromkeys(STEPS, 0.0)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    def call(self, step: str, run: Callable[[], Any]) -> Any:
        """Time one call."""
        if self._device.type != "cuda":
            start = time.perf_counter()
            result = run()
            self._wall[step] += 1e3 * (time.perf_counter() - start)
            return result
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        result = run()
        last.record()
        self._events.append((step, first, last))
        return result

    def read(self) -> dict[str, float]:
        """Milliseconds by step."""
        if self._events:
            torch.cuda.synchronize(self._device)
        spent = dict(self._wall)
        for step, first, last in self._events:
            spent[step] += first.elapsed_time(last)
        return spent


class _Watched:
    """A step's module whose functions are called through a note."""

    def __init__(self, step: str, module: ModuleType, note: Note) -> None:
        self._step, self._module, self._note = step, module, note

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if not isinstance(found, FunctionType):
            return found
        return lambda *args, **options: self._note(self._step, lambda: found(*args, **options))


@contextmanager
def _watched(form: ModuleType, note: Note) -> Iterator[None]:
    """Inside, `form` calls the functions of its steps through `note`: in every form they are modules of these names."""
    modules = {step: getattr(form, step) for step in STEPS}
    try:
        for step, module in modules.items():
            setattr(form, step, _Watched(step, module, note))
        yield
    finally:
        for step, module in modules.items():
            setattr(form, step, module)
