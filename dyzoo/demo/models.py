"""The detectors that a page offers, of which a few are in memory at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import torch

from dyzoo.errors import UnknownModelError
from dyzoo.model.detector import Detector
from dyzoo.text import printable
from dyzoo.zoo.catalog import checkpoints
from dyzoo.zoo.creation import is_exported_file, is_here, load_model
from dyzoo.zoo.names import DEFAULT_MODEL, list_models

IN_MEMORY = 2
"""Detectors that are kept in memory unless another number is given."""


def offered_models() -> list[str]:
    """The embedded checkpoint, then those of the catalogue that load without network."""
    known = checkpoints()
    others = [name for name in list_models(pretrained=True) if name != DEFAULT_MODEL and is_here(known[name])]
    return [DEFAULT_MODEL, *others]


class Models:
    """Detectors by name, loaded when they are asked for; the one that was not asked for longest goes for a new one.

    Several threads may ask at once; one loads at a time.

    Args:
        names: what `dyzoo.load` takes, each of them once.
        device: None: the GPU where there is one; an ONNX file is run on the CPU.
        in_memory: most that are kept.
    """

    def __init__(
        self,
        names: Sequence[str | Path],
        device: str | torch.device | None = None,
        in_memory: int = IN_MEMORY,
    ) -> None:
        self.names = tuple(dict.fromkeys(map(str, names)))
        self._device, self._in_memory = device, in_memory
        self._loaded: OrderedDict[str, Detector] = OrderedDict()
        self._lock = Lock()

    def get(self, name: str) -> Detector:
        """The detector of that name, in evaluation mode.

        Raises:
            UnknownModelError: it is none of `names`.
            DyzooError: it cannot be loaded.
        """
        if name not in self.names:
            some = ", ".join(self.names[:5])
            raise UnknownModelError(f"no model here is called {printable(str(name))[:80]!r}, expected one of {some}")
        with self._lock:
            if name not in self._loaded:
                while len(self._loaded) >= self._in_memory:
                    self._loaded.popitem(last=False)
                self._loaded[name] = load_model(name, self._device_of(name))
            self._loaded.move_to_end(name)
            return self._loaded[name]

    def _device_of(self, name: str) -> str | torch.device:
        if self._device is not None:
            return self._device
        return "cuda" if torch.cuda.is_available() and not is_exported_file(name) else "cpu"
