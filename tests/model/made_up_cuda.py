"""CUDA graphs without a GPU: what a pass does to tensors on the CPU is noted, and a replay does it again, in place."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dyzoo.model.detector import Detector
from dyzoo.model.graphs import replaying

SEEN_OFTEN = replaying.RUNS_BEFORE + 1  # of these runs the last is a replay


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


class _Notes(TorchDispatchMode):
    """The operators of a pass, with their tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self.own: dict[int, Tensor] = {}  # what the pass has allocated, by address
        self.others: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.others |= {_address(tensor) for tensor in _tensors((args, kwargs))} - self.own.keys()
        result = func(*args, **(kwargs or {}))
        self.steps.append((func, args, kwargs or {}, result))
        for tensor in _tensors(result):
            if _address(tensor) not in self.others:
                self.own.setdefault(_address(tensor), tensor)
        return result


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class MadeUpGraph:
    """A graph that has captured nothing yet. Its capture leaves no values behind, as none are computed on a GPU."""

    def __init__(self, cuda: MadeUpCuda) -> None:
        self.cuda, self.notes = cuda, _Notes()

    def replay(self) -> None:
        self.cuda.replays += 1
        for func, args, kwargs, result in self.notes.steps:
            again = func(*args, **kwargs)
            for old, new in zip(_tensors(result), _tensors(again), strict=True):
                if old.data_ptr() != new.data_ptr():  # views are where they were, and their weights are not written to
                    old.copy_(new)


@dataclass
class MadeUpCuda:
    """Captures and replays that there were, and how the next capture ends.

    Attributes:
        failure: that each capture ends with.
        is_broken_off: whether CUDA fails to end captures, so that PyTorch's allocator does not hear of their ends.
        pool_bytes: of 100 bytes of the device, those of each pool.
        order: of what streams wait for and events note.
        modes: in which captures treat what other threads do.
    """

    captures: int = 0
    replays: int = 0
    pools: int = 0
    failure: Exception | None = None
    pool_bytes: int = 1
    is_capturing: bool = False
    is_broken_off: bool = False
    order: list[str] = field(default_factory=list)
    graphs: list[MadeUpGraph] = field(default_factory=list)
    modes: set[str] = field(default_factory=set)

    @contextmanager
    def capture(self, graph: MadeUpGraph, pool: int, stream: Any, capture_error_mode: str) -> Iterator[None]:
        assert not self.is_capturing
        self.captures += 1
        self.graphs.append(graph)
        self.modes.add(capture_error_mode)
        self.is_capturing = True
        try:
            with graph.notes:
                yield
                if self.failure is not None:
                    raise self.failure
        finally:
            self.is_capturing = False
        for tensor in graph.notes.own.values():
            if tensor.is_floating_point():
                tensor.fill_(torch.nan)

    def end(self, device: int | None, pool: int) -> None:
        if not self.is_broken_off:
            raise RuntimeError("not currently recording to the pool")
        self.order.append("the allocator has ended")

    def release(self, device: int | None, pool: int) -> None:
        self.order.append("its pool is released")

    def pool(self) -> int:
        self.pools += 1
        return self.pools

    def snapshot(self, pool: int) -> list[dict[str, int]]:
        return [{"total_size": self.pool_bytes}]


class _Event:
    def __init__(self, order: list[str]) -> None:
        self.order = order

    def record(self, stream: Any) -> None:
        self.order.append("answers are copied")


class _Stream:
    def __init__(self, order: list[str]) -> None:
        self.order = order

    def wait_stream(self, stream: Any) -> None:
        pass

    def wait_event(self, event: Any) -> None:
        self.order.append("wait for answers")


def make_up_cuda(monkeypatch: pytest.MonkeyPatch) -> MadeUpCuda:
    """Put made-up graphs in the place of CUDA's, and have tensors on the CPU take them."""
    cuda = MadeUpCuda()
    current = threading.local()  # streams are each thread's own

    def stream_of(device: Any) -> _Stream:
        current.stream = getattr(current, "stream", None) or _Stream(cuda.order)
        return current.stream

    for name, value in {
        "CUDAGraph": lambda: MadeUpGraph(cuda),
        "graph": cuda.capture,
        "graph_pool_handle": cuda.pool,
        "memory_snapshot": cuda.snapshot,
        "mem_get_info": lambda device: (50, 100),
        "Stream": lambda device: _Stream(cuda.order),
        "Event": lambda: _Event(cuda.order),
        "stream": nullcontext,
        "device": nullcontext,
        "current_stream": stream_of,
        "is_current_stream_capturing": lambda: False,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    for name, function in {"_cuda_endAllocateToPool": cuda.end, "_cuda_releasePool": cuda.release}.items():
        monkeypatch.setattr(torch._C, name, function, raising=False)
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: None)
    monkeypatch.setattr(replaying, "_is_on_gpu", lambda batch: True)
    monkeypatch.delenv("DYZOO_CUDA_GRAPHS", raising=False)
    return cuda


def picture(height: int = 64, width: int = 96, seed: int = 0) -> Tensor:
    """(3, H, W) noise, uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def boxes(found: Sequence[Any]) -> list[Any]:
    """The detections as lists of numbers that can be compared."""
    return [(each.boxes_xyxy.tolist(), each.scores.tolist(), each.labels.tolist()) for each in found]


def look(detector: Detector, image: Tensor, **settings: Any) -> list[Any]:
    return boxes(detector.predict(image, 0.01, size="native", workers=0, **settings))


def look_often(detector: Detector, image: Tensor, **settings: Any) -> None:
    for _ in range(SEEN_OFTEN):
        look(detector, image, **settings)
