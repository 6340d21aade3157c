"""When a network's pass is captured, when it is replayed, and when it runs as ever."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from dyzoo.dyhead import resolve_backend
from dyzoo.environment import CUDA_GRAPHS, cuda_graphs_are_wanted
from dyzoo.errors import first_line
from dyzoo.model.graphs.recording import Network, Pool, Recording
from dyzoo.model.graphs.state import NetworkState
from dyzoo.model.heads.base import Raw

MOST_GRAPHS = 8  # of one model; a COCO run at batch size 1 has some five sizes that are frequent
LARGEST_SHARE = 0.25  # of the device's memory, for all of one model
RUNS_BEFORE = 2  # of a size, before the one that captures it: what is seen once or twice pays nothing
_MOST_COUNTED = 64  # sizes whose runs are counted

log = logging.getLogger("dyzoo.model")


class _Model(Protocol):
    def forward_features(self, batch: Tensor) -> list[Tensor]: ...
    def forward_head(self, features: list[Tensor]) -> Raw: ...


class _Graphs:
    """Those of one model, on one device; from whichever thread."""

    def __init__(self) -> None:
        self._has_failed = False
        self._state: NetworkState | None = None
        self._pool: Pool | None = None
        self._recordings: OrderedDict[Hashable, Recording] = OrderedDict()
        self._runs: OrderedDict[Hashable, int] = OrderedDict()
        self._given_up = 0
        self._lock = threading.Lock()

    def run(self, model: nn.Module, network: Network, batch: Tensor) -> Raw:
        with torch.cuda.device(batch.device), self._lock:
            if not self._has_failed and not torch.cuda.is_current_stream_capturing():
                recording = self._recording(model, network, batch)
                if recording is not None:
                    return recording.replay(batch)
        try:
            return network(batch)
        except torch.OutOfMemoryError:
            if not self.give_back():
                raise
        return network(batch)  # with the memory that graphs had

    def give_back(self) -> bool:
        """Give up all graphs, so that their memory serves others; whether there were any."""
        with self._lock:
            had_any = bool(self._recordings)
            self._give_up_all()
            return had_any

    def forget(self) -> None:
        """Give up all graphs, and what is known of the model."""
        with self._lock:
            self._give_up_all()
            self._state = None

    def _recording(self, model: nn.Module, network: Network, batch: Tensor) -> Recording | None:
        if self._state is None or not self._state.is_current():
            self._recordings.clear()
            self._runs.clear()
            self._state, self._given_up = NetworkState(model), 0
        if not self._state.can_be_captured:
            return None
        key = _key(batch)
        recording = self._recordings.get(key)
        if recording is not None:
            self._recordings.move_to_end(key)
            return recording
        runs = self._runs.pop(key, 0)
        # Each graph that had to go makes the next one dearer: sizes that take turns do not end in captures alone.
        if runs >= RUNS_BEFORE * (1 + self._given_up):
            return self._captured(key, network, batch, self._state)
        self._runs[key] = runs + 1
        if len(self._runs) > _MOST_COUNTED:
            self._runs.popitem(last=False)
        return None

    def _captured(self, key: Hashable, network: Network, batch: Tensor, state: NetworkState) -> Recording | None:
        while len(self._recordings) >= MOST_GRAPHS:
            self._recordings.popitem(last=False)
            self._given_up += 1
        if self._pool is None or not self._recordings:  # a pool ends with its last graph
            self._pool = Pool(batch.device)
        try:
            recording = Recording(network, batch, self._pool)
            if not state.is_current():
                raise RuntimeError("its pass changes it")
        except torch.OutOfMemoryError:
            self._give_up_all()
            self._given_up += 1
            return None
        except Exception as error:  # CUDA's, a module's own, a compiler's
            self._has_failed = True
            self._give_up_all()
            self._state = None
            log.warning(
                "this model runs without CUDA graphs, which changes nothing but its speed: %s (%s=0 does not try)",
                first_line(error),
                CUDA_GRAPHS,
            )
            return None
        self._recordings[key] = recording
        if self._pool.share_of_memory(batch.device) > LARGEST_SHARE:
            self._give_up_all()
            return None
        return recording

    def _give_up_all(self) -> None:
        self._given_up += len(self._recordings)
        self._recordings.clear()
        self._pool = None


_graphs: WeakKeyDictionary[nn.Module, _Graphs] = WeakKeyDictionary()
_graphs_lock = threading.Lock()  # here, since a model with graphs could be neither copied nor pickled


def raw_maps(model: _Model, batch: Tensor) -> Raw:
    """A model's `forward_head` of its `forward_features`: on a GPU, in inference mode, replayed where it can be.

    A size is captured when it comes for the third time, and replayed from then on, as long as the model is as it was.
    What cannot be captured runs as ever, and a line in the log says why, once for a model.

    Args:
        model: a module, in evaluation mode.
        batch: (N, 3, H, W), on the device of the model.
    """

    def network(given: Tensor) -> Raw:
        return model.forward_head(model.forward_features(given))

    is_patched = vars(model).keys() & {"forward_features", "forward_head"}
    if torch.compiler.is_compiling() or is_patched or not _may_replay(batch):
        return network(batch)
    assert isinstance(model, nn.Module)
    with _graphs_lock:
        graphs = _graphs.setdefault(model, _Graphs())
    return graphs.run(model, network, batch)


def forget(model: nn.Module) -> None:
    """Give back the memory of a model's graphs, if it has any."""
    if not torch.compiler.is_compiling() and (graphs := _graphs.get(model)) is not None:
        graphs.forget()


def _may_replay(batch: Tensor) -> bool:
    """Whether nobody could tell, by anything but the time, a replay from a run."""
    return (
        type(batch) is Tensor
        and _is_on_gpu(batch)
        and batch.numel() > 0
        and torch.is_inference_mode_enabled()
        and not torch.jit.is_tracing()
        and not torch_module._has_any_global_hook()
        and torch._C._len_torch_dispatch_stack() == 0  # counters and the like, which want to see every operator
        and all(isinstance(mode, DeviceContext) for mode in _get_current_function_mode_stack())
        and cuda_graphs_are_wanted()
    )


def _is_on_gpu(batch: Tensor) -> bool:
    return batch.is_cuda


def _key(batch: Tensor) -> Hashable:
    """Equal for two batches that one graph does for: their form, and the settings under which they run."""
    kind = batch.device.type
    return (
        batch.device,
        batch.dtype,
        batch.shape,
        batch.stride(),
        torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind),
        torch.backends.cuda.matmul.fp32_precision,
        torch.backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
        torch.backends.cudnn.enabled,
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
        resolve_backend("auto", batch.device),
    )
