"""Tensors that calls share: made once for each device, and kept while they are in use.

A tensor that outlives the call which made it has two dangers, and this module is where both are met.

- **CUDA graphs.** Warm-up and capture allocate from memory of the graph's own, and so does `torch.compile` with
  `mode="reduce-overhead"` or `"max-autotune"`, which raises when it finds a tensor there that it does not know.
  Allocators divert by thread or by stream, so tensors are made on a thread of their own, on its default stream.
- **Given up too early.** A captured graph holds addresses: what was in use during a capture is never given up, unless
  the graph's owner holds it (`held_with_a_graph`). Of the rest the least recently used go, and their memory waits for
  the streams that read it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import update_wrapper
from threading import Lock, local
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
P = ParamSpec("P")

_owner = local()


class DeviceCache:
    """Values that calls with equal arguments share on one device.

    Attributes:
        device: where the tensors are.
        is_captured: whether a CUDA graph whose owner does not hold them has their addresses.
    """

    def __init__(self, device: torch.device) -> None:
        """An empty one."""
        self.device = device
        self.is_captured = False
        self._made: dict[Hashable, Any] = {}
        self._tensors: list[Tensor] = []
        self._streams: set[Any] = set()  # that every tensor's memory waits for
        self._lock = Lock()

    def made(self, key: Hashable, make: Callable[[], T]) -> T:
        """The result of `make`, which is called for the first of equal keys and takes its tensors from `tensor`.

        Raises:
            RuntimeError: it is not there yet, and a CUDA graph is being captured, which cannot hold a copy from the
                host.
        """
        found = self._made.get(key)
        if found is not None:
            return found  # type: ignore[no-any-return]
        if _is_capturing(self.device):
            raise RuntimeError(
                "the first call at a size makes tables, which a CUDA graph cannot capture: run the operator once "
                "before, forward and backward"
            )
        with self._lock:
            if key not in self._made:
                before = len(self._tensors)
                self._made[key] = _outside_of_graphs(make, self.device)
                if self.device.type == "cuda":
                    for stream in {*self._streams, torch.cuda.current_stream(self.device)}:
                        for tensor in self._tensors[before:]:
                            tensor.record_stream(stream)
            return self._made[key]  # type: ignore[no-any-return]

    def tensor(self, values: Tensor) -> Tensor:
        """A host tensor's copy on the device, there when this returns. For functions that `made` calls."""
        copy = values.to(self.device)
        self._tensors.append(copy)
        return copy

    def enter(self) -> None:
        """Note that the current stream is going to read what is here, or that a graph captures that it does."""
        if self.device.type != "cuda":
            return
        if _is_capturing(self.device):
            held: list[DeviceCache] | None = getattr(_owner, "held", None)
            if held is None:
                self.is_captured = True
            elif self not in held:
                held.append(self)
            return
        stream = torch.cuda.current_stream(self.device)
        if stream not in self._streams:
            with self._lock:
                for tensor in self._tensors:
                    tensor.record_stream(stream)
                self._streams.add(stream)


@dataclass(frozen=True)
class _Entry(Generic[T]):
    cache: DeviceCache
    value: T


class CachedOnDevice(Generic[P, T]):
    """A function whose results, for hashable arguments, are kept by device. See `cached_on_device`."""

    def __init__(self, function: Callable[Concatenate[DeviceCache, P], T], most: int) -> None:
        """Nothing is kept yet."""
        update_wrapper(self, function)
        self._function = function
        self._most = most
        self._recent: OrderedDict[Hashable, _Entry[T]] = OrderedDict()
        self._captured: dict[Hashable, _Entry[T]] = {}
        self._lock = Lock()

    def __call__(self, device: torch.device, *arguments: P.args, **keywords: P.kwargs) -> T:
        """The result for these arguments, for calls on the device's current stream.

        Raises:
            RuntimeError: as `DeviceCache.made`.
        """
        key = (device, arguments, tuple(keywords.items()))
        with self._lock:
            entry = self._captured.get(key)
            if entry is None:
                entry = self._recent.get(key)
                if entry is None:
                    cache = DeviceCache(device)
                    entry = _Entry(cache, cache.made("", lambda: self._function(cache, *arguments, **keywords)))
                    self._recent[key] = entry
                self._recent.move_to_end(key)
            entry.cache.enter()
            if entry.cache.is_captured and key in self._recent:
                self._captured[key] = self._recent.pop(key)
            while len(self._recent) > self._most:
                self._recent.popitem(last=False)
        return entry.value

    def __len__(self) -> int:
        """The number of results that are kept."""
        return len(self._recent) + len(self._captured)


def cached_on_device(
    most: int,
) -> Callable[[Callable[Concatenate[DeviceCache, P], T]], CachedOnDevice[P, T]]:
    """Keep results of a function whose tensors come from the `DeviceCache` that it is given instead of a device.

    Args:
        most: results to keep besides those that CUDA graphs were captured with, the least recently used going first.
    """
    return lambda function: CachedOnDevice(function, most)


@contextmanager
def held_with_a_graph() -> Iterator[list[DeviceCache]]:
    """Collect what the CUDA graph reads that this thread captures in here, so that it can be given up with the graph.

    Whoever owns the graph keeps the list for as long, and calls `enter` on each before a replay.
    """
    before: list[DeviceCache] | None = getattr(_owner, "held", None)
    held: list[DeviceCache] = []
    _owner.held = held
    try:
        yield held
    finally:
        _owner.held = before


def _is_capturing(device: torch.device) -> bool:
    """Whether the current stream of `device`, which need not be the current device, is captured by a CUDA graph."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()


def _outside_of_graphs(make: Callable[[], T], device: torch.device) -> T:
    """Call `make` where no CUDA graph diverts allocations and no mode of the caller's changes its tensors."""
    if device.type != "cuda":
        with torch.inference_mode(False):  # what is shared must also serve calls that record gradients
            return make()
    with ThreadPoolExecutor(1) as thread:  # modes, too, are each thread's own
        return thread.submit(make).result()
