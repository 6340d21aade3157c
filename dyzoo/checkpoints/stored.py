"""Tensors and arrays where a file keeps them, made when they are asked for."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable
from mmap import mmap
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dyzoo.checkpoints.pickles import Calls, Inert, Name, latin1_bytes

_DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}


class Stored:
    """Something of a file that becomes a tensor when asked; any exception then means that the file is damaged."""

    def build(self, state: Any) -> None:
        """Take the state that the pickle gives; tensors ignore it (their gradients' hooks and the like)."""

    def tensor(self) -> Tensor:
        """The tensor, on the CPU. It may share memory with the file: copy it before the file changes."""
        raise NotImplementedError


class Storage:
    """The flat values that tensors are views of.

    Attributes:
        start: place of the values in the file, in bytes; None until known.
        checksum: CRC-32 of their bytes, None where the format has none.
    """

    def __init__(self, memory: mmap, kind: Any, count: int) -> None:
        match = re.fullmatch(r"torch\.(cuda\.)?(\w+)Storage", kind.full if isinstance(kind, Name) else "")
        if match is None or match[2] not in _DTYPES:
            raise ValueError(f"storage of unknown kind {getattr(kind, 'full', kind)!r:.60}")
        if type(count) is not int or count < 0:
            raise ValueError(f"a storage of {count!r:.60} values")
        self.memory = memory
        self.dtype = _DTYPES[match[2]]
        self.count = count
        self.start: int | None = None
        self.checksum: int | None = None

    @property
    def num_bytes(self) -> int:
        return self.count * self.dtype.itemsize

    def values(self) -> Tensor:
        """(count,) in memory of the file where it is aligned, else a copy."""
        if self.start is None or self.start + self.num_bytes > len(self.memory):
            raise ValueError("values outside of the file")
        if not self.count:
            return torch.empty(0, dtype=self.dtype)
        content = memoryview(self.memory)[self.start : self.start + self.num_bytes]
        if self.checksum is not None and zlib.crc32(content) != self.checksum:
            raise ValueError("a checksum differs")
        aligned = self.start % self.dtype.itemsize == 0
        return torch.frombuffer(content if aligned else bytearray(content), dtype=self.dtype)


class StoredTensor(Stored):
    """A strided view of a storage."""

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> None:
        if not isinstance(storage, Storage):
            raise TypeError("a tensor without storage")
        self.storage = storage
        self.view = (size, stride, offset)

    def tensor(self) -> Tensor:
        size, stride, offset = self.view
        if math.prod(size) > self.storage.count:  # a stride of 0 can make petabytes of one value
            raise ValueError(f"a tensor {tuple(size)} of {self.storage.count} values")
        # as_strided raises where the view reaches outside of the storage
        return self.storage.values().as_strided(tuple(size), tuple(stride), offset)


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def tensor_calls() -> Calls:
    """Stand-ins for the functions that torch's pickles call: tensors from storages, parameters from tensors."""
    return {
        "torch._utils._rebuild_tensor": StoredTensor,
        "torch._utils._rebuild_tensor_v2": StoredTensor,
        "torch._utils._rebuild_parameter": _parameter,
        "torch._utils._rebuild_parameter_with_state": _parameter,
        **array_calls(),
    }


class StoredDtype(Stored):
    """numpy's name of a type; only plain numbers have a `numpy` type."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code if isinstance(code, str) else ""
        self.byte_order = "="

    def build(self, state: Any) -> None:
        self.byte_order = {"<": "<", ">": ">"}.get(state[1], "=")

    @property
    def numpy(self) -> np.dtype[Any] | None:
        known = re.fullmatch(r"[<>=|]?(b1|[iu][1248]|f[248])", self.code)
        return np.dtype(self.byte_order + known[1]) if known else None


class StoredArray(Stored):
    """A numpy array, rebuilt from its bytes without numpy's own unpickling, which believes what it is told."""

    def __init__(self, *_: Any) -> None:
        self.state: tuple[Any, ...] | None = None

    def build(self, state: Any) -> None:
        _, *self.state = state  # a version first

    def tensor(self) -> Tensor:
        shape, dtype, by_columns, content = self.state or (None,) * 4
        if not isinstance(dtype, StoredDtype) or dtype.numpy is None:
            raise ValueError("an array of no plain numbers")
        content = latin1_bytes(content)
        if len(content) != math.prod(shape) * dtype.numpy.itemsize:
            raise ValueError(f"{len(content)} bytes for an array of shape {tuple(shape)}")
        flat = np.frombuffer(content, dtype.numpy)
        return from_array(flat.reshape(shape, order="F" if by_columns else "C"))


def _array_from_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> StoredArray:
    array = StoredArray()
    array.state = (shape, dtype, order == "F", content)
    return array


def _scalar(dtype: Any, content: Any = b"") -> Any:
    known = dtype.numpy if isinstance(dtype, StoredDtype) else None
    return Inert("numpy.generic") if known is None else np.frombuffer(latin1_bytes(content), known)[0].item()


def array_calls() -> Calls:
    """Stand-ins for the functions that numpy's pickles call, under the module names of numpy 1 and 2."""
    calls: dict[str, Callable[..., Any]] = {"numpy.dtype": StoredDtype}
    for core in ("numpy.core", "numpy._core"):
        calls[f"{core}.multiarray._reconstruct"] = StoredArray
        calls[f"{core}.multiarray.scalar"] = _scalar
        calls[f"{core}.numeric._frombuffer"] = _array_from_buffer
    return calls


def from_array(array: np.ndarray[Any, Any]) -> Tensor:
    """A tensor of its own memory."""
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
