"""Position of a run in its training, which a checkpoint holds beside the states of the model and its optimizer."""

from __future__ import annotations

from dataclasses import dataclass, field

Row = dict[str, float | None]


@dataclass
class Progression:
    """The position in the training and the numbers gathered so far.

    Attributes:
        epochs_done: whole epochs, evaluated where they are to be.
        batches_done: batches of the epoch under way, always whole steps.
        steps_done: updates of the weights since the start.
        best_epoch, best_ap: the best evaluation so far; -1 before the first.
        stale: evaluations since then.
        lr: learning rate outside the backbone at the start of the epoch under way.
        totals: sums over the batches of the epoch under way: losses by name.
        images, seconds, waited_s: images seen in the epoch under way, its time, and that spent on waiting for data.
        epoch_s, validation_s: time of the last whole epoch, and of evaluation as a mean over the epochs.
        rows: one of numbers for each whole epoch.
    """

    epochs_done: int = 0
    batches_done: int = 0
    steps_done: int = 0
    best_epoch: int = 0
    best_ap: float = -1.0
    stale: int = 0
    lr: float = 0.0
    totals: dict[str, float] = field(default_factory=dict)
    images: int = 0
    seconds: float = 0.0
    waited_s: float = 0.0
    epoch_s: float = 0.0
    validation_s: float = 0.0
    rows: list[Row] = field(default_factory=list)

    def add_batches(self, losses: dict[str, float], batches: int, images: int) -> None:
        """Count a step over `batches` batches whose mean losses these are."""
        for name, value in losses.items():
            self.totals[name] = self.totals.get(name, 0.0) + value * batches
        self.batches_done += batches
        self.steps_done += 1
        self.images += images

    def epoch_means(self) -> Row:
        """Mean losses, images per second and the share of time spent on waiting, of the epoch under way."""
        means: Row = {name: value / self.batches_done for name, value in self.totals.items()}
        seconds = max(self.seconds, 1e-9)
        return {**means, "images_per_s": self.images / seconds, "data_wait": self.waited_s / seconds}

    def add_validation(self, seconds: float) -> None:
        """Count the evaluation after the epoch under way, 0 s where there was none."""
        self.validation_s += (seconds - self.validation_s) / (self.epochs_done + 1)

    def judge(self, ap: float, epoch: int) -> bool:
        """Note an evaluation; whether its weights are to be kept: the best, or the latest while nothing is found."""
        is_better, is_kept = ap > self.best_ap, ap > self.best_ap or ap == 0.0 == self.best_ap
        if is_kept:
            self.best_ap, self.best_epoch = ap, epoch
        self.stale = 0 if is_better else self.stale + 1
        return is_kept

    def end_epoch(self, row: Row) -> None:
        """Close the epoch under way with its row."""
        self.epochs_done += 1
        self.epoch_s = self.seconds
        self.batches_done = self.images = 0
        self.seconds = self.waited_s = 0.0
        self.totals = {}
        self.rows.append(row)

    def place(self, batches: int, epochs: int) -> str:
        """Where the training goes on, in words.

        Args:
            batches: number in an epoch.
            epochs: number in the run.
        """
        if self.epochs_done >= epochs:
            return f"after step {self.steps_done}, the last of {epochs} epochs"
        batch = f"batch {self.batches_done + 1} of {batches}"
        return f"after step {self.steps_done}, with {batch} of epoch {self.epochs_done + 1} of {epochs}"
