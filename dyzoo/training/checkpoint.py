"""A run's checkpoints: the whole state, written aside and renamed, read without running any pickled code."""

from __future__ import annotations

import pickle
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError

from dyzoo.errors import TrainingError, first_line
from dyzoo.files import replacing

FOLDER_NAME = "checkpoints"
FORMAT = 1
LABELS = "training labels"  # the setting that is a hash, which says nothing to a user
_PATTERN = re.compile(r"step_(\d+)\.pt")
_KEYS = {"format", "parts", "progress", "random", "settings"}
_DAMAGE = (
    *(RuntimeError, ValueError, KeyError, TypeError, AttributeError, EOFError, OSError),
    *(pickle.UnpicklingError, zipfile.BadZipFile, zlib.error),
)


class Stateful(Protocol):
    """Anything with torch's `state_dict` pair."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


class Checkpoints:
    """The checkpoints in `RUN/checkpoints`, named by the steps done.

    Args:
        run: the run's folder.
        keep: how many of the newest to keep.
    """

    def __init__(self, run: Path, keep: int = 1) -> None:
        self.run = run
        self.folder = run / FOLDER_NAME
        self.keep = keep

    def paths(self) -> list[Path]:
        """Paths of the checkpoints, newest first."""
        if not self.folder.is_dir():
            return []
        found = [(int(match[1]), path) for path in self.folder.iterdir() if (match := _PATTERN.fullmatch(path.name))]
        return [path for _, path in sorted(found, reverse=True)]

    def save(
        self,
        step: int,
        parts: dict[str, Stateful],
        progress: dict[str, Any],
        random: list[dict[str, Any]],
        settings: dict[str, int | str],
    ) -> None:
        """Write a checkpoint, then remove those that are not to be kept.

        Args:
            step: names it.
            parts: whose states to keep.
            progress: plain values.
            random: the state of each process's generators.
            settings: those that a resumed run must have the same values of.

        Raises:
            TrainingError: it cannot be written; those before are untouched.
        """
        state = {
            "format": FORMAT,
            "parts": {name: part.state_dict() for name, part in parts.items()},
            "progress": progress,
            "random": random,
            "settings": settings,
        }
        path = self.folder / f"step_{step:08d}.pt"
        with self.writing(), replacing(path) as aside:
            try:
                torch.save(state, aside)
            except RuntimeError as error:  # PyTorch's archive writer says so of a full disk
                raise OSError(f"{aside}: {first_line(error)}") from error
        kept = [path, *(other for other in self.paths() if other != path)][: self.keep]
        for other in self.paths():
            if other not in kept:
                other.unlink(missing_ok=True)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn a failure to write below the run's folder into one line that says what is kept."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or first_line(error)
            raise TrainingError(
                f"{self.run} cannot be written to ({reason}): make room, or choose another --out; {self.kept()}"
            ) from error

    def kept(self) -> str:
        """The last line of a run that ends early: the checkpoint that it can go on from."""
        paths = self.paths()
        return f"{paths[0]} is kept, --resume goes on from it" if paths else "nothing is saved yet"

    def newest(self, note: Callable[[str], None]) -> dict[str, Any]:
        """The newest whole checkpoint.

        Args:
            note: told of each newer one that is damaged.

        Raises:
            TrainingError: there is none.
        """
        paths = self.paths()
        if not paths and (self.run / "last.pt").is_file():
            raise TrainingError(
                f"{self.run / 'last.pt'} is of an earlier dyzoo than {FOLDER_NAME}/: train anew, without --resume"
            )
        if not paths:
            raise TrainingError(f"{self.run} has no {FOLDER_NAME} to resume from: start without --resume")
        for path in paths:
            try:
                state = _read(path)
                if missing := _KEYS - state.keys():
                    raise KeyError(f"it has no {missing.pop()}")
                return {**state, "path": path}
            except _DAMAGE as error:
                reason = f"{path} is damaged or no checkpoint ({first_line(error)})"
                if path != paths[-1]:
                    note(f"{reason}: the one before is taken")
        raise TrainingError(f"{reason}: start anew, without --resume")


def _read(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:  # PyTorch writes checksums, and does not look at them when it reads
        if (broken := archive.testzip()) is not None:
            raise ValueError(f"the checksum of {broken} is wrong")
    return torch.load(path, map_location="cpu", weights_only=True)


def load_parts(state: dict[str, Any], parts: dict[str, Stateful]) -> None:
    """Put the states of a checkpoint into `parts`.

    Raises:
        TrainingError: it belongs to another model.
    """
    path, saved = state["path"], state["parts"]
    if saved.keys() != parts.keys():
        raise TrainingError(
            f"{path} holds {', '.join(saved)}, this run has {', '.join(parts)}: resume with the run's own settings"
        )
    for name, part in parts.items():
        try:
            part.load_state_dict(saved[name])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(
                f"{path} is of another model ({name}: {first_line(error)}): resume with the run's own settings"
            ) from error


def check_settings(state: dict[str, Any], settings: dict[str, int | str]) -> None:
    """Raise a `TrainingError` where a setting that the position in the training depends on has changed."""
    for name, value in settings.items():
        if (before := state["settings"].get(name)) == value:
            continue
        if name == LABELS:
            raise TrainingError(
                f"{state['path']} was trained with other {LABELS} (classes, boxes or images have changed): resume "
                "with the data as it was, or start from it with --weights and another --out"
            )
        raise TrainingError(
            f"{state['path']} was trained with {name} {before}, this run has {value}: "
            "resume with the run's own settings"
        )
