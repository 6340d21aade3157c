"""A model's evaluation mode, for as long as some thread needs it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from torch import nn


@dataclass
class _Use:
    """Number of threads that predict with a model, and its parts that were in training mode before the first did."""

    users: int = 0
    training: list[nn.Module] = field(default_factory=list)


_uses: WeakKeyDictionary[nn.Module, _Use] = WeakKeyDictionary()
_uses_lock = threading.Lock()  # here, since a model with a lock could be neither copied nor pickled


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode while any thread is in here; the last one to leave puts each part back as the first found it."""
    with _uses_lock:
        use = _uses.setdefault(model, _Use())
        if not use.users:
            use.training = [module for module in model.modules() if module.training]
            for module in use.training:
                module.training = False
        use.users += 1
    try:
        yield
    finally:
        with _uses_lock:
            use.users -= 1
            if not use.users:
                for module in use.training:
                    module.training = True
                del _uses[model]
