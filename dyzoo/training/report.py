"""What a run tells of every epoch: metrics.csv, curves.png and the trackers."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dyzoo.evaluation.plots import save_training_curves
from dyzoo.files import write_text
from dyzoo.training.progression import Row
from dyzoo.training.trackers import Trackers

METRICS_NAME = "metrics.csv"


class Report:
    """One row of numbers per epoch, the same in every file.

    The rows of a run that goes on come from its checkpoint, so that no file has a row twice, or lacks one, wherever
    the run was cut off.

    Args:
        folder: the run's folder.
        rows: of the whole epochs of an earlier part of the run.
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
        """Close the trackers."""
        self.trackers.close()
