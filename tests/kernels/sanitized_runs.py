"""Whole operators, and kernels with planted faults, under ttsem, which executes compiled kernels without a GPU.

`python -m tests.kernels.sanitized_runs` stops at the kernel's line with an access outside of its tensors or a race
between programs; a value read before it was written is NaN and spoils a result. `... faults` tries the planted faults.
Not for a process in which Triton interprets.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module

import pytest
import torch
import triton
import triton.language as tl
from dyhead_kernels import modulated_deform_conv2d
from dyhead_kernels.launch import tuning
from torch import Tensor
from triton.runtime.jit import JITFunction
from ttsem import sanitize

from tests.kernels import block_cases, conv_cases
from tests.kernels.poison import poison_allocations
from tests.kernels.tolerances import assert_as_good

ARCHITECTURE = 90
SMALL = block_cases.tiles(16, 4, BLOCK_C=16, BLOCK_O=16)
"""Many programs, and the last of each axis partly outside, on maps of a few pixels."""


@triton.jit
def _adds_in_place_kernel(total_ptr, values_ptr, COUNT: tl.constexpr):
    """Every program reads, adds and writes the same numbers, without an atomic."""
    at = tl.arange(0, COUNT)
    total = tl.load(total_ptr + at) + tl.load(values_ptr + tl.program_id(0) * COUNT + at)
    tl.store(total_ptr + at, total)


@triton.jit
def _copies_past_the_end_kernel(copy_ptr, values_ptr, count, BLOCK: tl.constexpr):
    """The load is masked, the store is not."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(copy_ptr + at, tl.load(values_ptr + at, mask=at < count, other=0.0))


@triton.jit
def _sums_past_the_end_kernel(sum_ptr, values_ptr, BLOCK: tl.constexpr):
    tl.store(sum_ptr, tl.sum(tl.load(values_ptr + tl.arange(0, BLOCK))))


@triton.jit
def _adds_to_what_nobody_wrote_kernel(total_ptr, values_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(total_ptr + at, tl.load(total_ptr + at) + tl.load(values_ptr + at))


def race() -> None:
    """A planted race between programs."""
    _adds_in_place_kernel[(3,)](torch.zeros(16), torch.ones(48), COUNT=16)


def write() -> None:
    """A planted write past the end."""
    _copies_past_the_end_kernel[(2,)](torch.zeros(20), torch.ones(20), 20, BLOCK=16)


def read() -> None:
    """A planted read past the end."""
    _sums_past_the_end_kernel[(1,)](torch.zeros(1), torch.ones(13), BLOCK=16)


def unwritten() -> None:
    """A planted read of memory that nobody wrote."""
    total = torch.empty(16)
    _adds_to_what_nobody_wrote_kernel[(1,)](total, torch.ones(16), BLOCK=16)
    assert total.isfinite().all(), "a result is not finite: memory was read before it was written"


def block(
    mode: str, dtype: torch.dtype, deterministic: bool, shapes: block_cases.Shapes, bias: bool = True
) -> set[str]:
    """A block of 20 channels to 24, forward and backward; the kernels."""
    torch.use_deterministic_algorithms(deterministic)
    pyramid = block_cases.random_pyramid(shapes, 20, 1, dtype)
    parameters = block_cases.random_parameters(20, 24, dtype, bias=bias)
    settings = {"offset_mode": mode, "norm_groups": 4}
    with sanitized() as kernels:
        actual = block_cases.forward_and_gradients(pyramid, parameters, **settings, backend="triton")
    stepwise = block_cases.forward_and_gradients(pyramid, parameters, **settings, backend="reference")
    doubles = block_cases.in_float64(pyramid, parameters)
    exact = block_cases.forward_and_gradients(*doubles, **settings, backend="reference")
    assert_as_good(actual, stepwise, exact, dtype)
    return kernels


def convolution(
    case: conv_cases.Case, dtype: torch.dtype, deterministic: bool = False, offset_scale: float = 2
) -> set[str]:
    """A deformable convolution, forward and backward; the kernels."""
    torch.use_deterministic_algorithms(deterministic)
    tensors = case.tensors(dtype, offset_scale)
    with sanitized() as kernels:
        actual = _convolved(tensors, case, "triton")
    stepwise, exact = (_convolved(each, case, "reference") for each in (tensors, conv_cases.in_float64(tensors)))
    assert_as_good(actual, stepwise, exact, dtype)
    return kernels


def _convolved(tensors: dict[str, Tensor | None], case: conv_cases.Case, backend: str) -> dict[str, Tensor]:
    return conv_cases.forward_and_gradients(modulated_deform_conv2d, tensors, **case.geometry, backend=backend)


@contextmanager
def sanitized() -> Iterator[set[str]]:
    """Triton's launches on CPU tensors are executed and checked, in small blocks; fresh memory is poisoned.

    The set fills with the names of the kernels.
    """
    with ExitStack() as stack:
        monkeypatch = stack.enter_context(pytest.MonkeyPatch.context())
        poison_allocations(monkeypatch)
        for operator in ("dyhead_block", "deform_conv"):
            module = import_module(f"dyhead_kernels.{operator}.op")
            monkeypatch.setattr(module, "check_triton", lambda device, dtype: None)
        stack.enter_context(tuning.overriding(SMALL))
        session = stack.enter_context(sanitize.session(cc=ARCHITECTURE, cuda_is_cpu=False))
        launched: set[str] = set()
        run = JITFunction.run
        monkeypatch.setattr(
            JITFunction, "run", lambda self, *a, **k: (launched.add(self.fn.__name__), run(self, *a, **k))[1]
        )
        yield launched
        assert not session.races_unchecked, f"{session.races_unchecked} launches were too large to be checked for races"


FAULTS: dict[str, Callable[[], None]] = {"race": race, "write": write, "read": read, "unwritten": unwritten}

TWO_LEVELS, THREE_LEVELS = ((5, 3), (3, 2)), ((5, 6), (3, 3), (2, 2))
RUNS: dict[str, Callable[[], set[str]]] = {
    "block, float32, resized offsets": lambda: block("resize", torch.float32, False, TWO_LEVELS),
    "block, bfloat16, flat offsets, counted": lambda: block("flat", torch.bfloat16, True, TWO_LEVELS, bias=False),
    "block, float16, cropped offsets, three levels": lambda: block("crop", torch.float16, False, THREE_LEVELS),
    "convolution, groups and strides": lambda: convolution(
        conv_cases.Case(channels=36, out_channels=40, groups=2, offset_groups=3, stride=(2, 1)), torch.float32
    ),
    "convolution, bfloat16, far outside, counted": lambda: convolution(
        conv_cases.Case(channels=20, out_channels=24, size=(3, 5), dilation=(1, 2), padding=(2, 3)),
        torch.bfloat16,
        deterministic=True,
        offset_scale=50,
    ),
    "convolution, no mask, no bias": lambda: convolution(
        conv_cases.Case(masked=False, biased=False, size=(4, 5), kernel=(2, 3)), torch.float16
    ),
}


def main() -> None:
    """Run all operators, each from the same seed, and name the kernels that each launched."""
    for name, run in RUNS.items():
        torch.manual_seed(7)
        print(f"{name}:", *sorted(run()), flush=True)


def try_faults() -> None:
    """Print what is said of each planted fault, one line each."""
    for name, run in FAULTS.items():
        try:
            with sanitized():
                run()
        except (AssertionError, sanitize.KernelFault) as error:
            print(f"{name}:", " ".join(str(error).split()), flush=True)
        else:
            print(f"{name}: nothing was found", flush=True)


if __name__ == "__main__":
    try_faults() if sys.argv[1:] == ["faults"] else main()
