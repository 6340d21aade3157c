"""The numbers of every epoch, where they can be watched: metrics.csv, curves.png, TensorBoard and Weights & Biases.

The last two through Hugging Face Accelerate's trackers, used one by one: the list that an `Accelerator` keeps lives as
long as the interpreter, and a second run in it would add to the first one's.
"""

from __future__ import annotations

import csv
import io
import netrc
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker

from dyzoo.environment import chosen_wandb_mode, has_wandb_key, wandb_project
from dyzoo.errors import first_line
from dyzoo.evaluation.plots import save_training_curves
from dyzoo.files import write_text
from dyzoo.training.progression import Row

METRICS_NAME = "metrics.csv"
TENSORBOARD_NAME = "tensorboard"
WANDB_PROJECT = "dyzoo"
_WANDB_HOST = "api.wandb.ai"


class Report:
    """One row of numbers per epoch, the same in every file.

    The rows of a run that goes on come from its checkpoint, so that no file has a row twice, or lacks one, wherever
    the run was cut off.

    Args:
        folder: the run's folder.
        rows: the whole epochs of an earlier part of the run.
        settings: for trackers that show them.
        say: told what a tracker has to say.
    """

    def __init__(
        self,
        folder: Path,
        rows: Sequence[Row] = (),
        settings: dict[str, Any] | None = None,
        say: Callable[[str], Any] = print,
    ) -> None:
        self.folder = folder
        self.rows = list(rows)
        self.trackers = Trackers(folder, settings or {}, len(self.rows) + 1, say)

    def add(self, row: Row) -> None:
        """Append the row of one epoch everywhere; a value of None is left empty."""
        self.rows.append(row)
        columns = list(dict.fromkeys(name for known in self.rows for name in known))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        for known in self.rows:
            writer.writerow({name: "" if value is None else f"{value:.6g}" for name, value in known.items()})
        write_text(self.folder / METRICS_NAME, text.getvalue())
        self.trackers.log(row)
        save_training_curves(self.rows, self.folder / "curves.png")

    def close(self) -> None:
        """Flush and close the trackers."""
        self.trackers.close()


class Trackers:
    """TensorBoard, and Weights & Biases if it is installed, told the same rows.

    Args:
        folder: the run's folder; TensorBoard's files go to `tensorboard/`, those of W&B to `wandb/`.
        settings: the run's, for W&B to show.
        first_epoch: the next one; what an interrupted run told of it and later ones is dropped.
        say: told in a line where W&B keeps its files, or why it is left out.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], first_epoch: int, say: Callable[[str], Any]) -> None:
        self.say = say
        board = TensorBoardTracker(TENSORBOARD_NAME, logging_dir=str(folder), purge_step=first_epoch)
        board.start()
        self.trackers: list[GeneralTracker] = [board]
        if find_spec("wandb") is not None and chosen_wandb_mode() != "disabled":
            self._start_wandb(folder, settings)

    def _start_wandb(self, folder: Path, settings: dict[str, Any]) -> None:
        mode = wandb_mode()
        kept = folder / "wandb"
        number = kept / "run_id"
        try:
            kept.mkdir(parents=True, exist_ok=True)
            run_id = number.read_text(encoding="utf-8").strip() if number.is_file() else None
            tracker = WandBTracker(
                wandb_project(WANDB_PROJECT),
                dir=str(folder),
                name=folder.name,
                config=settings,
                id=run_id,
                resume="allow",
                mode=mode,
            )
            tracker.start()
            number.write_text(tracker.run.id, encoding="utf-8")
        except Exception as error:  # its own kinds of errors, and those of its service: none is worth a training
            self.say(f"Weights & Biases is left out: {first_line(error)}")
            return
        self.trackers.append(tracker)
        if mode == "offline":
            self.say(f"Weights & Biases: offline, in {kept}; `wandb login` before a run, or `wandb sync` after it")

    def log(self, row: Row) -> None:
        """Tell the numbers of one epoch, those that are there."""
        values = {name: value for name, value in row.items() if value is not None and name != "epoch"}
        for tracker in list(self.trackers):
            try:
                tracker.log(values, step=int(row["epoch"] or 0))
            except Exception as error:
                if isinstance(tracker, TensorBoardTracker):
                    raise
                self.trackers.remove(tracker)
                self.say(f"Weights & Biases is left out from here on: {first_line(error)}")

    def close(self) -> None:
        """Flush and close every tracker."""
        for tracker in self.trackers:
            tracker.finish()


def wandb_mode() -> Literal["online", "offline"] | None:
    """The mode that the user has set, else None; "offline" for somebody who is not logged in, who would be asked
    otherwise."""
    if chosen := chosen_wandb_mode():
        return cast(Literal["online", "offline"], chosen)
    if has_wandb_key():
        return None
    try:
        return None if netrc.netrc().authenticators(_WANDB_HOST) else "offline"
    except (OSError, netrc.NetrcParseError):
        return "offline"
