"""Runs that are stopped at a step, and what they have kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dyzoo.training import TrainConfig, train
from dyzoo.training.checkpoint import FOLDER_NAME
from dyzoo.training.loop import Trainer


def checkpoints(run: Path) -> list[Path]:
    """Oldest first."""
    return sorted((run / FOLDER_NAME).iterdir())


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def interrupted_at(step: int, action: Callable[[], object]) -> Callable[..., Any]:
    """A `Trainer.step` that does something before the given one of this process."""
    plain, count = Trainer.step, 0

    def wrapped(self: Trainer, *arguments: Any, **settings: Any) -> Any:
        nonlocal count
        count += 1
        if count == step:
            action()
        return plain(self, *arguments, **settings)

    return wrapped


def stopped_run(config: TrainConfig, monkeypatch: pytest.MonkeyPatch, step: int = 5) -> TrainConfig:
    """A run that stopped before this step; gives the settings to go on with."""
    with monkeypatch.context() as patch:

        def stop() -> None:
            raise KeyboardInterrupt

        patch.setattr(Trainer, "step", interrupted_at(step, stop))
        with pytest.raises(KeyboardInterrupt):
            train(config)
    return replace(config, resume=True)
