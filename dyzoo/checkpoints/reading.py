"""Checkpoint files of other code bases, told apart by their content and read without running any code of theirs.

PyTorch's zip format and the one before it (torch 1.5 and older), pickled dictionaries of numpy arrays (detectron2's
`.pkl`) and safetensors. Tensors stay in the memory-mapped file until they are asked for.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from io import BytesIO
from mmap import ACCESS_COPY, mmap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dyzoo.checkpoints.pickles import Inert, Refused, read_pickle
from dyzoo.checkpoints.stored import Storage, Stored, from_array, tensor_calls
from dyzoo.errors import CheckpointError, first_line

EXPECTED = "expected a checkpoint of PyTorch (.pth, .pt, .bin), detectron2 (.pkl) or safetensors"
WEIGHT_KEYS = ("state_dict", "model")  # where mmdetection and detectron2 keep the weights
PARALLEL_PREFIX = "module."  # DataParallel and DistributedDataParallel put it before every key

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the format before zip
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # in a zip archive: signature, lengths of name and extra field


def read_checkpoint(path: str | Path) -> dict[Any, Any]:
    """The dictionary that a checkpoint file holds. Nothing named in the file is imported, called or built.

    Returns:
        Nested dictionaries, lists and plain values as they were saved; tensors and arrays as `Stored`, objects of
        other classes as `Inert`.

    Raises:
        CheckpointError: the file is absent, no checkpoint, damaged, or holds pickled code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is {'a folder' if path.is_dir() else 'no file'}, {EXPECTED}")
    if not path.stat().st_size:
        raise CheckpointError(f"{path} is empty, {EXPECTED}")
    try:
        with path.open("rb") as file:
            memory = mmap(file.fileno(), 0, access=ACCESS_COPY)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    try:
        checkpoint = _read(path, memory)
    except Refused as error:
        raise CheckpointError(
            f"{path} {error}: ask its author for the weights alone (state_dict), saved as safetensors"
        ) from None
    except CheckpointError:
        raise
    except Exception as error:  # whatever a damaged file leads to
        raise CheckpointError(f"{path} is damaged ({first_line(error)}): download or copy it again") from None
    if not isinstance(checkpoint, dict):
        kind = checkpoint.class_name if isinstance(checkpoint, Inert) else type(checkpoint).__name__
        raise CheckpointError(f"{path} holds one object of {kind}, expected a dictionary of weights (a state_dict)")
    return checkpoint


def _read(path: Path, memory: mmap) -> Any:
    start = memory[:16]
    # before pickles: the length of a safetensors header may begin with the byte that pickles begin with
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= len(memory) - 8:
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(first_line(error)) from None
    if start.startswith(b"PK\x03\x04"):
        return _read_zip(path, memory)
    if start.startswith(b"\x80"):
        return _read_pickles(memory)
    page = start.lstrip().startswith(b"<")
    raise CheckpointError(f"{path} is {'a web page' if page else 'of no known format'}, {EXPECTED}")


def _read_zip(path: Path, memory: mmap) -> Any:
    with zipfile.ZipFile(path) as archive:
        records = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    if "data.pkl" not in records:
        raise CheckpointError(f"{path} is a zip archive without PyTorch's data.pkl, {EXPECTED}")
    if "byteorder" in records and memory[_extent(records["byteorder"], memory)] != b"little":
        raise Refused("was saved by a big-endian machine")
    storages: dict[str, Storage] = {}

    def storage(reference: Any) -> Storage:
        _, kind, key, _, count = reference
        if key not in storages:
            stored = storages[key] = Storage(memory, kind, count)
            info = records[f"data/{key}"]
            if info.file_size != stored.num_bytes:
                raise ValueError(f"record {key} has {info.file_size} bytes, expected {stored.num_bytes}")
            stored.start, stored.checksum = _extent(info, memory).start, info.CRC
        return storages[key]

    return read_pickle(BytesIO(memory[_extent(records["data.pkl"], memory)]), tensor_calls(), storage)


def _extent(info: zipfile.ZipInfo, memory: mmap) -> slice:
    """Where an archive's record lies in the file; PyTorch never compresses."""
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise Refused(f"is a zip archive with {info.filename!r:.60} compressed or encrypted")
    end_of_header = info.header_offset + _LOCAL_HEADER.size
    signature, name_length, extra_length = _LOCAL_HEADER.unpack(memory[info.header_offset : end_of_header])
    if signature != b"PK\x03\x04":
        raise ValueError("no record where the archive's directory has one")
    start = end_of_header + name_length + extra_length
    return slice(start, start + info.file_size)


def _read_pickles(memory: mmap) -> Any:
    first = read_pickle(memory, tensor_calls())
    if first != _LEGACY_MAGIC:
        return first
    read_pickle(memory, {})  # the format's version
    if not read_pickle(memory, {})["little_endian"]:
        raise Refused("was saved by a big-endian machine")
    storages: dict[str, Storage] = {}

    def storage(reference: Any) -> Storage:
        _, kind, key, _, count, view = reference
        if view is not None:
            raise Refused("has storages that are views, as torch before 0.4 wrote them")
        return storages.setdefault(key, Storage(memory, kind, count))

    checkpoint = read_pickle(memory, tensor_calls(), storage)
    keys, position = read_pickle(memory, {}), memory.tell()
    for key in keys:  # the values follow in this order, each after its count
        stored = storages[key]
        if int.from_bytes(memory[position : position + 8], "little") != stored.count:
            raise ValueError(f"storage {key} has another length than its tensors expect")
        stored.start = position + 8
        position = stored.start + stored.num_bytes
    if position > len(memory):
        raise ValueError(f"{len(memory)} bytes, expected {position}")
    return checkpoint


def weights_of(checkpoint: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """The state dict inside of a checkpoint, without the prefix of parallel training; values as they are.

    Where mmengine averages weights, `state_dict` holds the averaged ones and `ema_state_dict` the others.

    Raises:
        CheckpointError: there is none; `where` leads the message.
    """
    nested: Any = next((checkpoint[key] for key in WEIGHT_KEYS if key in checkpoint), checkpoint)
    if isinstance(nested, Inert):
        raise CheckpointError(
            f"{where} holds a pickled {nested.class_name}, expected its weights: save the model's state_dict() instead"
        )
    if not isinstance(nested, Mapping) or not any(map(_is_tensor, nested.values())):
        found = ", ".join(map(repr, list(nested if isinstance(nested, Mapping) else checkpoint)[:4])) or "nothing"
        raise CheckpointError(f"{where} holds no weights but {found}, expected them under 'model' or 'state_dict'")
    weights = {str(key): value for key, value in nested.items()}
    if all(key.startswith(PARALLEL_PREFIX) for key in weights):
        weights = {key.removeprefix(PARALLEL_PREFIX): value for key, value in weights.items()}
    return weights


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor | Stored | np.ndarray | np.generic)  # a scalar's array becomes numpy's scalar


def as_tensor(value: Any, where: str) -> Tensor:
    """A value of a state dict as a floating-point tensor on the CPU, which may share memory with its source.

    Raises:
        CheckpointError: it is none, its values cannot be read, or one of them is infinite or no number.
    """
    try:
        if isinstance(value, Stored):
            value = value.tensor()
        elif isinstance(value, np.ndarray | np.generic):
            value = from_array(np.asarray(value))
    except Exception as error:  # whatever a damaged file leads to
        raise CheckpointError(f"{where} cannot be read ({first_line(error)}): the file is damaged") from None
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, Tensor) else getattr(value, "class_name", type(value).__name__)
        raise CheckpointError(f"{where} is {kind}, expected a floating-point tensor")
    value = value.detach().cpu()
    if value.numel() and not all(bound.isfinite() for bound in torch.aminmax(value)):
        raise CheckpointError(f"{where} has infinite values or NaN: its training went wrong, or the file is damaged")
    return value
