"""Fixtures for the operators' tests. Without a CUDA device Triton kernels run in Triton's interpreter."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
import torch
from dyhead_kernels import backends
from dyhead_kernels.deform_conv.packed import native as native_deform_conv
from dyhead_kernels.dyhead_block import native as native_block

from tests.kernels.poison import poison_allocations


@pytest.fixture(autouse=True)
def _seeded_and_single_threaded() -> Iterator[None]:
    """Fix the seed and use one thread: on maps of a few pixels, more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(7)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Memory from `torch.empty` and its kin is filled with NaN, so that a value never written shows."""
    fill = torch.utils.deterministic.fill_uninitialized_memory
    enabled, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.empty(3).isnan().all()
    yield
    torch.utils.deterministic.fill_uninitialized_memory = fill
    torch.use_deterministic_algorithms(enabled, warn_only=warn_only)


@pytest.fixture
def plain_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The form for CPUs as it is where there is no compiler."""
    for native in (native_deform_conv, native_block):
        monkeypatch.setattr(native, "serves", lambda *_: False)


@pytest.fixture(params=["compiled", "plain"])
def form(request: pytest.FixtureRequest) -> None:
    """The form for CPUs with the compiled loops and without."""
    if request.param == "plain":
        request.getfixturevalue("plain_pytorch")
    elif shutil.which(backends.compiler_name()) is None:
        pytest.skip("no C++ compiler")


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch, plain_pytorch: None) -> None:
    """Columns of a few positions, so that small maps take many chunks, and the product meant for large maps."""
    torch.set_num_threads(2)
    monkeypatch.setattr("dyhead_kernels.deform_conv.packed.torch.CHUNK_BYTES", 5000)
    monkeypatch.setattr("dyhead_kernels.deform_conv.packed.torch.MIN_CONV_ROWS", 2)


@pytest.fixture(scope="session")
def _interpreter_rounds_like_a_gpu() -> Iterator[None]:
    """Round float32 to the nearest bfloat16, as GPUs do: Triton's interpreter cuts the digits off."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    import triton.language as tl

    convert: Callable[..., np.ndarray] = interpreter._convert_float

    def rounded(values: np.ndarray, source: Any, target: Any, mode: Any) -> np.ndarray:
        if source == tl.float32 and target == tl.bfloat16:
            tensor = torch.from_numpy(np.ascontiguousarray(values).view(np.float32))
            return tensor.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16).reshape(values.shape)
        return convert(values, source, target, mode)

    interpreter._convert_float = rounded
    yield
    interpreter._convert_float = convert


@pytest.fixture
def products_in_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter adds up each number of a product in the same order wherever in a block it stands, as a GPU does.

    NumPy leaves products to a BLAS, whose order depends on the row and on the processor.
    """
    interpreter = pytest.importorskip("triton.runtime.interpreter")

    def create_dot(_: object, left: Any, right: Any, total: Any, *options: object) -> Any:
        product = np.einsum("mk,kn->mn", left.data, right.data).astype(total.data.dtype)
        return interpreter.TensorHandle(product + total.data, total.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def triton_device(request: pytest.FixtureRequest) -> torch.device:
    """The device that Triton kernels run on: a GPU if there is one, else the interpreter, on CPU tensors."""
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
        return torch.device("cuda")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("kernels are compiled here, for the CUDA device")
    if version("triton").startswith("3.6.") and np.lib.NumpyVersion(np.__version__) >= "2.4.0":
        pytest.skip("the interpreter of Triton 3.6 cannot loop up to a loaded number: it needs numpy<2.4")
    request.getfixturevalue("_interpreter_rounds_like_a_gpu")
    return torch.device("cpu")


@pytest.fixture
def poisoned_allocations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Like `poisoned_memory`, but PyTorch's deterministic algorithms stay off. Integers are filled with -1."""
    poison_allocations(monkeypatch)
