"""What a run leaves to look at: metrics.csv, TensorBoard events and curves.png."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from dyzoo.files import write_text
from dyzoo.plots import save_training_curves
from dyzoo.training.progression import Row

METRICS_NAME = "metrics.csv"


class Report:
    """One row of numbers per epoch, the same in every file.

    The rows of a run that goes on come from its checkpoint, so that no file has a row twice, or lacks one, wherever
    the run was cut off.

    Args:
        folder: the run's folder.
        rows: of the whole epochs of an earlier part of the run.
    """

    def __init__(self, folder: Path, rows: Sequence[Row] = ()) -> None:
        self.folder = folder
        self.rows = list(rows)
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=len(self.rows) + 1)

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
