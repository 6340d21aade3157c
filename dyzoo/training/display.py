"""What a training shows: a line that moves with every step, and one that stays for every epoch."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dyzoo.training.progression import Progression, Row


class Display:
    """One line on a terminal: epoch, batches, time left in the epoch, loss, learning rate, speed, waiting for data."""

    def __init__(self, console: Console, epoch: int, epochs: int, batches: int, progression: Progression) -> None:
        self.progression = progression
        self.name = f"epoch {epoch}/{epochs}"
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
        means = self.progression.epoch_means()
        self.progress.update(
            self.bar,
            completed=self.progression.batches_done,
            description=f"loss {loss:.3f}  lr {lr:.2g}  {_speed(means)}",
        )


def summary(row: Row, epochs: int, best_ap: float) -> str:
    """The line of a whole epoch."""
    words = [f"epoch {row['epoch']:.0f}/{epochs}", f"loss {row['loss']:.4f}"]
    if "AP" in row:
        words += [f"AP {row['AP']:.4f}", f"AP50 {row['AP50']:.4f}", f"(best AP {best_ap:.4f})"]
    return "  ".join([*words, _speed(row)])


def _speed(row: Row) -> str:
    return f"{row['images_per_s']:.1f} images/s  waiting for data {row['data_wait']:.0%}"
