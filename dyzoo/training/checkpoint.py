"""The state of a run between two epochs: written aside, renamed, read back without running any pickled code."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from dyzoo.errors import TrainingError, first_line
from dyzoo.files import replacing

STATE_NAME = "last.pt"


class Stateful(Protocol):
    """Anything with torch's `state_dict` pair."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


def save_state(folder: Path, parts: dict[str, Stateful], progress: dict[str, int | float]) -> None:
    """Write the states of `parts`, the run's progress and the random generators to `folder`."""
    state = {
        "parts": {name: part.state_dict() for name, part in parts.items()},
        "progress": progress,
        "random": _random_state(),
    }
    with replacing(folder / STATE_NAME) as aside:
        torch.save(state, aside)


def load_state(folder: Path, parts: dict[str, Stateful]) -> dict[str, int | float]:
    """Restore what `save_state` wrote into `parts` and the random generators; gives the progress back.

    Raises:
        TrainingError: there is no state, it is damaged, or it belongs to another model.
    """
    path = folder / STATE_NAME
    if not path.is_file():
        raise TrainingError(f"{folder} has no {STATE_NAME} to resume from: start without --resume")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        saved = state["parts"]
        if saved.keys() != parts.keys():
            raise TrainingError(
                f"{path} holds {', '.join(saved)}, this run has {', '.join(parts)}: resume with the run's own settings"
            )
        for name, part in parts.items():
            part.load_state_dict(saved[name])
    except (RuntimeError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        if isinstance(error, TrainingError):
            raise
        raise TrainingError(f"{path} is damaged or of another model: {first_line(error)}") from error
    _set_random_state(state["random"])
    return state["progress"]


def _random_state() -> dict[str, Any]:
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": random.getstate(),
        "numpy": (str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached),
    }


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
