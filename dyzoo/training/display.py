"""Progress of a training on the console: a line that moves with every step, and a table with a line for each epoch."""

from __future__ import annotations

from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dyzoo.training.progression import Progression, Row


class Display:
    """One line on a terminal: epoch, batches, time left in the epoch, loss, learning rate, speed, waiting for data,
    time left in the run."""

    def __init__(self, console: Console, epoch: int, epochs: int, batches: int, progression: Progression) -> None:
        self.progression = progression
        self.name = f"epoch {epoch}/{epochs}"
        self.batches, self.epochs_left = batches, epochs - epoch
        columns = (
            TextColumn(self.name),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        self.progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.bar = self.progress.add_task("", total=batches, completed=progression.batches_done)

    def __enter__(self) -> Display:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.progress.stop()

    def update(self, loss: float, lr: float) -> None:
        """Show the step that has just been counted."""
        means, progression = self.progression.epoch_means(), self.progression
        whole_s = progression.seconds / progression.batches_done * self.batches
        left_s = whole_s * (self.epochs_left + 1) - progression.seconds + progression.validation_s * self.epochs_left
        self.progress.update(
            self.bar,
            completed=progression.batches_done,
            description=(
                f"loss {loss:.3f}  lr {lr:.2g}  {means['images_per_s']:.1f} images/s  "
                f"data wait {means['data_wait']:.0%}  run ends in {clock(left_s)}"
            ),
        )


class EpochTable:
    """The table of the epochs, printed line by line; its header comes before the first line.

    Args:
        epochs: number in the whole run.
        console: where the header goes.
    """

    def __init__(self, epochs: int, console: Console) -> None:
        self.epochs = epochs
        self.console = console
        self.columns: dict[str, int] = {}

    def line(self, row: Row, progression: Progression) -> str:
        """The line of a whole epoch."""
        losses = [name for name in row if name.startswith("loss")]
        left_s = (self.epochs - progression.epochs_done) * (progression.epoch_s + progression.validation_s)
        cells = {
            "epoch": f"{row['epoch']:.0f}/{self.epochs}",
            **{name.removeprefix("loss_"): f"{row[name]:.4f}" for name in losses},
            "lr": f"{row['lr']:.1e}",
            "AP": _share(row.get("AP")),
            "AP50": _share(row.get("AP50")),
            "best AP": _share(progression.best_ap if progression.best_epoch else None),
            "images/s": f"{row['images_per_s']:.1f}",
            "data wait": f"{row['data_wait']:.0%}",
            "left": clock(left_s),
        }
        if not self.columns:
            self.columns = {name: max(len(name), len(cell), 6) for name, cell in cells.items()}
            self.console.print("  ".join(name.rjust(width) for name, width in self.columns.items()))
        return "  ".join(cell.rjust(self.columns.get(name, 0)) for name, cell in cells.items())


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03."""
    return str(timedelta(seconds=max(round(seconds), 0)))


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
