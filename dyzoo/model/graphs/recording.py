"""One captured pass of a network, and the memory that several of them share. Nothing else here speaks to CUDA."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

from dyzoo.dyhead import held_with_a_graph
from dyzoo.model.graphs.trial import Trial
from dyzoo.model.heads.base import Raw

Network = Callable[[Tensor], Raw]
"""Normalised, padded images (N, 3, H, W) -> a head's raw predictions."""

_one_capture = threading.Lock()  # at a time, whatever the model: PyTorch supports no more


class Pool:
    """Memory that the graphs of one model share: what each needs in passing, they need at one place.

    So one has to wait for the other, on the GPU; `finished` is when the answers of the last one have been copied.

    Args:
        device: the current one.
    """

    def __init__(self, device: torch.device) -> None:
        self.handle = torch.cuda.graph_pool_handle()
        self.stream = torch.cuda.Stream(device)  # captures of one pool share a stream, too
        self.finished = torch.cuda.Event()

    def share_of_memory(self, device: torch.device) -> float:
        """The part of the device's memory that it takes, in 0..1; 0 where that is not known."""
        try:
            segments = torch.cuda.memory_snapshot(self.handle)
        except RuntimeError:  # an allocator that is not PyTorch's own does not tell
            return 0.0
        taken = sum(segment["total_size"] for segment in segments)
        return float(taken / torch.cuda.mem_get_info(device)[1])


class Recording:
    """One pass over batches that are like each other, as a CUDA graph. Not for several threads at a time.

    Captured on a stream aside, after one run in which all is refused that a graph cannot hold. Other threads may use
    the device meanwhile.

    Args:
        network: under the caller's modes, with autocast as it is.
        batch: one of its inputs, on the current device.
        pool: where it takes its memory.

    Raises:
        Exception: whatever a network raises that cannot be captured.
    """

    def __init__(self, network: Network, batch: Tensor, pool: Pool) -> None:
        self._pool, self._device, self._graph = pool, batch.device, torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream(self._device)
        # No cast weight may be taken from autocast's cache, which is emptied when the caller leaves autocast.
        kind = self._device.type
        dtype, is_cast = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        with _one_capture, torch.autocast(kind, dtype, is_cast, cache_enabled=False):
            pool.stream.wait_stream(current)
            with torch.cuda.stream(pool.stream):  # around the capture, too, which does not leave it when it fails
                # Made before the capture: where PyTorch fills new memory, a replay would fill it, too.
                self._given = torch.empty_like(batch)
                self._given.copy_(batch)
                with Trial(self._device):
                    network(self._given)
                try:
                    with (
                        held_with_a_graph() as self._tables,
                        torch.cuda.graph(self._graph, pool.handle, pool.stream, capture_error_mode="thread_local"),
                    ):
                        self._raw = network(self._given)
                except Exception:
                    _clean_up(self._graph, pool, self._device)
                    raise
            current.wait_stream(pool.stream)

    def replay(self, batch: Tensor) -> Raw:
        """Run the network on a batch like the first; the answers are the caller's own."""
        stream = torch.cuda.current_stream(self._device)
        for table in self._tables:
            table.enter()
        self._given.record_stream(stream)
        stream.wait_event(self._pool.finished)
        self._given.copy_(batch)
        self._graph.replay()
        # While they are held, no later capture takes the memory of the graph's own answers.
        raw = {kind: [level.clone() for level in levels] for kind, levels in self._raw.items()}
        self._pool.finished.record(stream)
        return raw


_failed: list[torch.cuda.CUDAGraph] = []


def _clean_up(graph: torch.cuda.CUDAGraph, pool: Pool, device: torch.device) -> None:
    """Have PyTorch's allocator forget a capture that CUDA broke off, as its own end of one does not get that far.

    Else it would believe in a capture for ever: memory that several streams have used would not come back, and a full
    memory would not be emptied of what is cached. The graph itself stays, as the allocator for the host refers to it.
    """
    _failed.append(graph)
    try:
        torch._C._cuda_endAllocateToPool(device.index, pool.handle)  # type: ignore[attr-defined]
    except RuntimeError:
        return  # the end got there
    torch._C._cuda_releasePool(device.index, pool.handle)  # type: ignore[attr-defined]
