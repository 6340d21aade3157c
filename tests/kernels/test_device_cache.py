"""Tensors that calls share, on a device that is made up: where they are allocated, which streams their memory waits
for, what a captured CUDA graph keeps, and what goes."""

from __future__ import annotations

import gc
import re
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from dyhead_kernels import BlockParameters, device_cache
from dyhead_kernels.deform_conv.packed.sampling import OutputMap, sampling_grid
from dyhead_kernels.device_cache import CachedOnDevice, DeviceCache, cached_on_device, held_with_a_graph
from dyhead_kernels.dyhead_block.layout import BranchLayout
from dyhead_kernels.dyhead_block.parameters import parameter_shapes
from torch import Tensor

CPU, FIRST, SECOND = torch.device("cpu"), torch.device("cuda", 0), torch.device("cuda", 1)
LAYOUT = BranchLayout(((9, 6), (5, 3), (3, 2)))


@dataclass
class MadeUpGpus:
    """Answers to what the cache asks of `torch.cuda`, without a GPU.

    Attributes:
        current: the current device of every thread that has not chosen one.
        capturing: devices whose current stream is captured.
        copies: by their ids, tensors that were copied to a device, and the thread that did it.
        waits: (id of a tensor, stream) of every memory that waits for a stream.
    """

    current: int = 0
    stream: str = "compute"
    capturing: set[int] = field(default_factory=set)
    copies: dict[int, tuple[Tensor, int]] = field(default_factory=dict)
    waits: set[tuple[int, str]] = field(default_factory=set)

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        before, self.current = self.current, int(device.index)
        yield
        self.current = before

    def is_current_stream_capturing(self) -> bool:
        return self.current in self.capturing

    def made_here(self) -> bool:
        """Whether any tensor was copied to a device on the thread that asks."""
        return any(thread == threading.get_ident() for _, thread in self.copies.values())


@pytest.fixture(autouse=True)
def _only_what_is_new_is_collected() -> Iterator[None]:
    """These tests collect often, and a process that has run others holds millions of objects."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> MadeUpGpus:
    made_up, to = MadeUpGpus(), Tensor.to

    def copy(self: Tensor, *arguments: Any, **options: Any) -> Tensor:
        if not (arguments and isinstance(arguments[0], torch.device) and arguments[0].type == "cuda"):
            return to(self, *arguments, **options)
        tensor = self.clone()
        made_up.copies[id(tensor)] = tensor, threading.get_ident()
        return tensor

    monkeypatch.setattr(Tensor, "to", copy)
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: made_up.waits.add((id(self), stream)))
    monkeypatch.setattr(torch.cuda, "device", made_up.device)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: made_up.stream)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", made_up.is_current_stream_capturing)
    return made_up


def lines_function(most: int) -> CachedOnDevice[[int], Tensor]:
    """A fresh cache of one function: (n,) ones."""

    @cached_on_device(most)
    def lines(cache: DeviceCache, count: int) -> Tensor:
        return cache.tensor(torch.ones(count))

    return lines


def test_tensors_are_made_once_and_on_a_thread_of_their_own(gpus: MadeUpGpus) -> None:
    """A graph's pool takes what the warming-up thread allocates, and what capturing streams do."""
    lines = lines_function(4)
    first = lines(FIRST, 3)
    assert lines(FIRST, 3) is first
    assert lines(SECOND, 3) is not first
    assert len(gpus.copies) == 2
    assert not gpus.made_here()


def test_modes_of_the_caller_do_not_reach_them(gpus: MadeUpGpus) -> None:
    with torch.inference_mode(), torch.device("meta"):
        shared = [lines_function(4)(FIRST, 3)]
    with torch.inference_mode():
        shared.append(lines_function(4)(CPU, 3))
    assert not any(tensor.is_inference() for tensor in shared)
    assert {tensor.device for tensor in shared} == {CPU}


def test_an_error_while_making_them_is_the_callers(gpus: MadeUpGpus) -> None:
    @cached_on_device(1)
    def broken(cache: DeviceCache) -> Tensor:
        raise ValueError("no such table")

    with pytest.raises(ValueError, match="no such table"):
        broken(FIRST)
    assert len(broken) == 0


def test_memory_waits_for_every_stream_that_reads_it(gpus: MadeUpGpus) -> None:
    cache = DeviceCache(FIRST)
    cache.enter()
    early = cache.made("early", lambda: cache.tensor(torch.ones(2)))
    gpus.stream = "other"
    cache.enter()
    late = cache.made("late", lambda: cache.tensor(torch.ones(2)))
    assert gpus.waits == {(id(tensor), stream) for tensor in (early, late) for stream in ("compute", "other")}


@pytest.mark.parametrize("captured", [FIRST, SECOND])
def test_nothing_is_made_while_a_graph_captures_on_that_device(captured: torch.device, gpus: MadeUpGpus) -> None:
    """The device asked about is that of the tensors, whichever is the current one."""
    lines, gpus.capturing = lines_function(4), {captured.index}
    other = SECOND if captured == FIRST else FIRST
    with pytest.raises(RuntimeError, match="run the operator once before, forward and backward"):
        lines(captured, 3)
    assert lines(other, 3).shape == (3,)
    assert gpus.current == 0


def test_later_tensors_are_not_made_in_a_capture_either(gpus: MadeUpGpus) -> None:
    cache = DeviceCache(FIRST)
    known = cache.made("known", lambda: cache.tensor(torch.ones(2)))
    gpus.capturing = {0}
    assert cache.made("known", lambda: cache.tensor(torch.ones(2))) is known
    with pytest.raises(RuntimeError, match="which a CUDA graph cannot capture"):
        cache.made("new", lambda: cache.tensor(torch.ones(2)))


def test_ten_thousand_sizes_keep_a_bounded_number_and_all_that_graphs_hold(gpus: MadeUpGpus) -> None:
    lines = lines_function(16)
    held = [lines(FIRST, count) for count in (3, 5)]
    gpus.capturing = {0}
    assert all(lines(FIRST, len(each)) is each for each in held)
    gpus.capturing = set()
    gone = weakref.ref(lines(CPU, 7))
    for count in range(1, 10_001):
        lines(CPU, count % 5000 + 8)
        lines(FIRST, 3)
    gc.collect()
    assert gone() is None
    assert len(lines) == 16 + 2
    assert all(lines(FIRST, len(each)) is each for each in held)
    assert len(gpus.copies) == 2


def test_what_the_owner_of_a_graph_holds_goes_with_it(gpus: MadeUpGpus) -> None:
    """Graphs that come and go leave nothing behind, and theirs is given up no earlier than they are."""
    lines = lines_function(2)
    for count in range(3, 40):
        tensor = weakref.ref(lines(FIRST, count))
        gpus.capturing = {0}
        with held_with_a_graph() as held:
            lines(FIRST, count)
            lines(FIRST, count)
        gpus.capturing = set()
        assert len(held) == 1
        for other in (1, 2):
            lines(FIRST, other)  # which takes its place in the cache
        gpus.copies.clear()
        gc.collect()
        assert tensor() is not None
        gpus.waits.clear()
        gpus.stream = "replay"
        held.pop().enter()
        gpus.stream = "compute"
        assert {stream for _, stream in gpus.waits} == {"replay"}
        gc.collect()
        assert tensor() is None
    assert len(lines) == 2


def test_only_the_owner_s_thread_collects_what_its_graph_reads(gpus: MadeUpGpus) -> None:
    lines = lines_function(4)
    kept = lines(FIRST, 3)
    gpus.capturing = {0}
    with held_with_a_graph() as held:
        thread = threading.Thread(target=lines, args=(FIRST, 3))  # a user's own capture, there at the same time
        thread.start()
        thread.join()
        with held_with_a_graph() as inner:
            lines(FIRST, 3)
        assert (held, len(inner)) == ([], 1)
    gpus.capturing = set()
    for count in range(4, 10):
        lines(FIRST, count)
    assert lines(FIRST, 3) is kept


def test_the_least_recently_used_goes_first() -> None:
    lines = lines_function(2)
    one, two = lines(CPU, 1), lines(CPU, 2)
    assert lines(CPU, 1) is one
    lines(CPU, 3)
    assert lines(CPU, 1) is one
    assert lines(CPU, 2) is not two


def test_many_threads_get_the_same_tensors() -> None:
    lines, found = lines_function(8), []
    threads = [
        threading.Thread(target=lambda: found.append([lines(CPU, count) for count in range(1, 9)])) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(x is y for row in found for x, y in zip(row, found[0], strict=True))


def test_ten_thousand_pyramids_keep_the_tables_of_a_few() -> None:
    """Training at many scales, on the host's side: every size has tables, and their memory stays bounded."""
    from dyhead_kernels.deform_conv.triton import _one_map
    from dyhead_kernels.dyhead_block.tables import block_tables
    from dyhead_kernels.launch.tables import MOST_LAYOUTS

    block_tables._recent.clear()
    for size in range(1, 10_001):
        plan = block_tables(torch.device("meta"), BranchLayout(((size, 2), ((size + 1) // 2, 1))), "flat")
        if size % 100 == 0:
            plan.levels.tables(64, 1)
        _one_map(torch.device("meta"), size, 2, size, 2, 1, 1)
    assert len(block_tables) == MOST_LAYOUTS
    assert len(_one_map) <= MOST_LAYOUTS


class TestOperatorsOnAMadeUpGpu:
    """The host's side of whole operators on fake tensors of a second GPU, launches recorded instead of run."""

    @pytest.fixture(autouse=True)
    def _fresh(self, gpus: MadeUpGpus, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("triton")
        from dyhead_kernels.deform_conv.triton import _one_map
        from dyhead_kernels.dyhead_block.tables import block_tables
        from dyhead_kernels.launch import tuning

        for function in (_one_map, block_tables, sampling_grid):
            monkeypatch.setattr(function, "_recent", type(function._recent)())
            monkeypatch.setattr(function, "_captured", {})
        monkeypatch.setattr(tuning, "_table_of", lambda device: tuning.load_table("sm_90"))

    def block(self) -> list[Any]:
        from dyhead_kernels.dyhead_block import triton as form
        from dyhead_kernels.launch.launching import recording

        values = torch.empty(1, LAYOUT.starts[-1], 16, device=SECOND)
        shapes = parameter_shapes(16, 16, 4)
        parameters = BlockParameters(**{name: torch.empty(shape, device=SECOND) for name, shape in shapes.items()})
        with recording() as launches:
            output, state = form.forward(values, parameters, LAYOUT, "resize", 4)
            form.backward(output, values, parameters, LAYOUT, "resize", 4, state, (True, True))
        return launches

    def convolution(self) -> list[Any]:
        from dyhead_kernels.deform_conv import triton as form
        from dyhead_kernels.launch.launching import recording

        input, weight = torch.empty(2, 16, 9, 7, device=SECOND), torch.empty(8, 16, 3, 3, device=SECOND)
        offset, mask = torch.empty(2, 18, 9, 7, device=SECOND), torch.empty(2, 9, 9, 7, device=SECOND)
        geometry = ((1, 1), (1, 1), (1, 1))
        with recording() as launches:
            output = form.forward(input, offset, weight, None, mask, *geometry)
            form.backward(output, input, offset, weight, None, mask, *geometry, (True,) * 5)
        return launches

    @pytest.mark.parametrize("operator", ["block", "convolution"])
    def test_what_outlives_a_call_comes_from_the_cache(self, operator: str, gpus: MadeUpGpus) -> None:
        """Everything that kernels read was made by the call itself, or by the cache on a thread of its own."""
        from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

        with FakeTensorMode(allow_non_fake_inputs=True):
            first, made = getattr(self, operator)(), len(gpus.copies)
            again = getattr(self, operator)()
        shared = [t for each in first for t in _tensors(each.arguments) if not isinstance(t, FakeTensor)]
        assert {id(tensor) for tensor in shared} == gpus.copies.keys()
        assert not gpus.made_here()
        assert {(id(tensor), "compute") for tensor in shared} == gpus.waits
        assert len(gpus.copies) == made
        assert [t for each in again for t in _tensors(each.arguments) if not isinstance(t, FakeTensor)] == shared

    @pytest.mark.parametrize("operator", ["block", "convolution"])
    def test_a_capture_makes_nothing_after_one_run(self, operator: str, gpus: MadeUpGpus) -> None:
        from torch._subclasses.fake_tensor import FakeTensorMode

        with FakeTensorMode(allow_non_fake_inputs=True):
            gpus.capturing = {1}
            with pytest.raises(RuntimeError, match="run the operator once before"):
                getattr(self, operator)()
            gpus.capturing = set()
            getattr(self, operator)()
            gpus.capturing = {1}
            assert getattr(self, operator)()

    def test_the_plain_form_s_grids_too(self, gpus: MadeUpGpus) -> None:
        maps = (OutputMap((3, 2), (3, 2), 0),)
        grid = sampling_grid(SECOND, maps, (3, 3), (1, 1), (1, 1), torch.float32)
        tensors = [each for each in vars(grid).values() if isinstance(each, Tensor)]
        assert {id(tensor) for tensor in tensors} == gpus.copies.keys()
        weights = LAYOUT.upsampling_weights(0, torch.float32, SECOND)
        assert id(weights) in gpus.copies
        assert not gpus.made_here()


def _tensors(arguments: tuple[Any, ...]) -> list[Tensor]:
    found: list[Tensor] = []
    for each in arguments:
        found += [each] if isinstance(each, Tensor) else _tensors(each) if isinstance(each, tuple) else []
    return found


def test_no_other_cache_holds_tensors() -> None:
    """`functools` would keep them where they happen to be allocated; here it keeps modules, libraries, choices."""
    root = Path(device_cache.__file__).parent
    users = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if re.search(r"functools import .*\b(lru_)?cache\b", path.read_text(encoding="utf-8"))
    }
    assert users == {"backends.py", "compiled.py", "launch/tuning.py", "deform_conv/packed/native.py"}
