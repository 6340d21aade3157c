"""A run in which what no CUDA graph can hold is refused, as a capture that is broken off leaves PyTorch the worse."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_WAITING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_UNTAGGED = {torch.ops.aten.is_nonzero.default, torch.ops.aten.where.default}
_INDEXING = {torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_}  # wait for masks alone


class Trial(TorchDispatchMode):
    """Raises a `RuntimeError` where this thread waits for a value on the device, or copies to it from the host.

    PyTorch's own mode for it (`torch.cuda.set_sync_debug_mode`) is of all threads.

    Args:
        device: where all is to be.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = _tensors((args, kwargs))
        if func.overloadpacket in _INDEXING:
            waits = any(tensor.dtype in (torch.bool, torch.uint8) for tensor in _tensors(args[1]))
        else:
            waits = func in _UNTAGGED or not _WAITING.isdisjoint(func.tags)
        if waits:
            raise RuntimeError(f"{func} waits for the GPU")
        result = func(*args, **kwargs)
        if any(tensor.device != self.device and tensor.ndim for tensor in (*given, *_tensors(result))):
            raise RuntimeError(f"{func} has a tensor elsewhere than on {self.device}")
        return result


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
