"""Small checkpoint files in every format that is read."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor


def small_weights() -> dict[str, Tensor]:
    """Tensors of several types and layouts, a scalar, an empty one, and one that shares another's storage."""
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(5, 7, generator=generator)
    return OrderedDict(
        plain=plain,
        scalar=torch.tensor(2.5),
        transposed=torch.randn(4, 3, generator=generator).t(),
        shared=plain[1:3, ::2],
        half=torch.randn(9, generator=generator).half(),
        bfloat=torch.randn(3, generator=generator).bfloat16(),
        double=torch.randn(2, 2, generator=generator).double(),
        counter=torch.tensor(7),
        mask=torch.tensor([True, False]),
        empty=torch.zeros(0, 3),
        parameter=torch.nn.Parameter(torch.randn(3, generator=generator)),
    )


def save_zip(value: Any, path: Path) -> None:
    torch.save(value, path)


def save_legacy(value: Any, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def save_pickle(value: Any, path: Path, protocol: int = 2) -> None:
    """Write a file as detectron2 publishes it: a pickled dictionary of numpy arrays."""
    path.write_bytes(pickle.dumps(_as_arrays(value), protocol=protocol))


def save_safetensors(value: Any, path: Path) -> None:
    weights = value.get("model", value)
    save_file({key: tensor.detach().clone().contiguous() for key, tensor in weights.items()}, path)


def _as_arrays(value: Any) -> Any:
    if type(value) in (dict, OrderedDict):
        return {key: _as_arrays(item) for key, item in value.items()}
    if isinstance(value, Tensor):
        return (value.detach().float() if value.dtype == torch.bfloat16 else value.detach()).numpy()
    return value


Save = Callable[[Any, Path], None]
FORMATS: dict[str, Save] = {
    "zip.pth": save_zip,
    "legacy.pth": save_legacy,
    "arrays.pkl": save_pickle,
    "plain.safetensors": save_safetensors,
}
PICKLED = {name: save for name, save in FORMATS.items() if "safetensors" not in name}
