"""What a run leaves to look at: metrics.csv, TensorBoard events and curves.png."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from dyzoo.files import write_text
from dyzoo.plots import save_training_curves

METRICS_NAME = "metrics.csv"

Row = dict[str, float | None]


class Report:
    """One row of numbers per epoch; on resuming, rows of epochs that are run again are dropped.

    Args:
        folder: the run's folder.
        epochs_done: epochs to keep from an earlier part of the run.
    """

    def __init__(self, folder: Path, epochs_done: int = 0) -> None:
        self.folder = folder
        self.rows = [row for row in read_metrics(folder) if (row["epoch"] or 0) <= epochs_done]
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=epochs_done + 1)

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
        for name, value in row.items():
            if value is not None and name != "epoch":
                self.writer.add_scalar(name, value, int(row["epoch"] or 0))
        self.writer.flush()
        save_training_curves(self.rows, self.folder / "curves.png")

    def close(self) -> None:
        """Flush and close the TensorBoard file."""
        self.writer.close()


def read_metrics(folder: Path) -> list[Row]:
    """The rows of `metrics.csv`, empty if there is none yet."""
    path = folder / METRICS_NAME
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: float(value) if value else None for name, value in row.items()} for row in csv.DictReader(file)]
