"""The training loop, from top to bottom: the run, its epochs, their steps, and one step's way to new weights."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from dyzoo.config.training import TrainConfig, parse_save_every
from dyzoo.data.loader import Batch
from dyzoo.distributed import gather_everywhere
from dyzoo.errors import DatasetError, DyzooError, TrainingError, WorkerError
from dyzoo.evaluation import Evaluation
from dyzoo.files import sweep
from dyzoo.hub.run_card import BEST_NAME
from dyzoo.locks import RunLock
from dyzoo.model.detector import Detector
from dyzoo.training.checkpoint import FOLDER_NAME, Checkpoints
from dyzoo.training.display import Display, EpochTable
from dyzoo.training.failure import NOT_FINITE_NAME, keep_batches
from dyzoo.training.processes import Processes
from dyzoo.training.progression import Row
from dyzoo.training.record import description, write_records
from dyzoo.training.report import Report
from dyzoo.training.saving import Saver
from dyzoo.training.setup import set_up
from dyzoo.training.signals import StopRequest, departure
from dyzoo.training.validation import EVALUATION_NAME, Validation

WRITTEN_FOLDERS = (FOLDER_NAME, BEST_NAME, EVALUATION_NAME, f"{NOT_FINITE_NAME}/*")  # patterns below the run's


def train(config: TrainConfig) -> Evaluation:
    """Train a detector and keep the best one.

    Writes into `config.folder`: `best/` (weights and configuration of the epoch with the highest validation AP, EMA
    weights), `checkpoints/` (the whole state, for `resume`), `metrics.csv`, `curves.png`, `tensorboard/`,
    `train.json`, `run.json`, and at the end `evaluation/` and `report.html`.

    A run that is resumed goes on with the very batch it would have had next, and on a CPU ends with the weights of one
    that was never interrupted. SIGTERM and Ctrl-C finish the step under way and save; a killed run loses what it did
    since its last checkpoint (`config.save_every`).

    Where `torchrun` or `accelerate launch` started several processes, all of them have to call this; only the main one
    prints and writes.

    Returns:
        The evaluation of the best detector on the validation split.

    Raises:
        DatasetError: the dataset cannot be used.
        UnknownModelError: no such model or backbone weights.
        TrainingError: the folder holds another run, is in use by one or cannot be written to, there is nothing to
            resume, the loss is no longer finite, or the images have gone or the processes that read them have died.
            The last three lose no whole step: `resume` goes on behind it.
        KeyboardInterrupt, SystemExit: after Ctrl-C and after SIGTERM (code 143), with everything saved.
    """
    processes, checkpoints = Processes(config.device), Checkpoints(config.folder, config.keep)

    def begin() -> None:
        with checkpoints.writing():
            lock.take()
            written = (place for pattern in WRITTEN_FOLDERS for place in config.folder.glob(pattern))
            for place in (config.folder, *written):
                sweep(place)

    with RunLock(config.folder) as lock:
        processes.on_main(begin)
        return Trainer(config, processes).run()


class StepOutcome(NamedTuple):
    """Result of a step, the same on every process."""

    losses: dict[str, float]  # means over batches and processes: "loss", their sum, and each by name
    stop: bool  # a process was asked to stop
    save: bool  # the main process wants a checkpoint


class Trainer:
    """One run: its epochs, their steps, and when it is evaluated, saved and stopped.

    Args:
        config: the settings.
        processes: that train together; None: as they were launched.
    """

    def __init__(self, config: TrainConfig, processes: Processes | None = None) -> None:
        self.processes = processes or Processes(config.device)
        self.checkpoints = Checkpoints(config.folder, config.keep)
        if not config.resume and self.processes.on_main(self.checkpoints.paths):
            raise TrainingError(f"{config.folder} holds a run already: go on with --resume, or choose another --out")
        self.setup = setup = set_up(config, self.processes)
        self.config, self.loader, self.state = setup.config, setup.loader, setup.state
        self.train_description = description(setup.train_set)
        self.saver = Saver(setup, self.checkpoints, self.train_description["sha256"])
        if config.resume:
            self.saver.resume(len(self.loader), self.config.epochs)
        self.progression = self.saver.progression
        self.save_steps, self.save_seconds = parse_save_every(config.save_every)
        self.stop = StopRequest(insist=self.processes.count == 1)
        self.validation = Validation(setup, self.checkpoints, self.progression, self.stop)

    @property
    def model(self) -> Detector:
        """The one that is trained, not the averaged one."""
        return self.state.model

    def run(self) -> Evaluation:
        """Train what is left, then evaluate the best detector."""
        try:
            self._train()
            return self.validation.evaluate_best()
        except (DatasetError, WorkerError) as error:
            raise TrainingError(f"{error}; {self.processes.on_main(self.checkpoints.kept)}") from error

    def _train(self) -> None:
        console, epochs = self.processes.console, self.config.epochs
        self.processes.on_main(self._open_report)
        self.table = EpochTable(epochs, console)
        try:
            with self.stop:
                while self.progression.epochs_done < epochs and not self.validation.is_out_of_patience():
                    self._run_epoch(self.progression.epochs_done + 1)
                self.validation.try_average()
        except (KeyboardInterrupt, SystemExit):
            console.print(f"stopped in epoch {self.progression.epochs_done + 1}; add --resume to go on")
            raise
        finally:
            if self.processes.is_main:
                self.report.close()

    def _open_report(self) -> None:
        resumed = self.progression.steps_done if self.config.resume else None
        settings = json.loads(self.config.to_json())
        with self.checkpoints.writing():
            write_records(self.setup, self.train_description, resumed)
            rows, say = self.progression.rows, self.processes.console.print
            self.report = Report(self.config.folder, rows, settings, say)

    def _run_epoch(self, epoch: int) -> None:
        self._train_epoch(epoch)
        progression, average = self.progression, self.state.average
        row: Row = {"epoch": epoch, "lr": progression.lr, **progression.epoch_means()}
        start_s = time.perf_counter()
        if is_evaluated := epoch % self.config.validate_every == 0 or epoch == self.config.epochs:
            try:
                row.update(self.validation.validate(epoch, self.state.evaluated_model))
            except (KeyboardInterrupt, SystemExit, DatasetError):
                self.saver.save()
                raise
        progression.add_validation(time.perf_counter() - start_s if is_evaluated else 0.0)
        if average is not None and epoch > self.config.epochs - self.config.average_last:
            average.update_parameters(self.model)
        progression.end_epoch(row)
        self.processes.on_main(lambda: self._report(row))
        self.saver.save()
        self.processes.console.print(self.table.line(row, progression))
        self._leave_if_asked()

    def _report(self, row: Row) -> None:
        with self.checkpoints.writing():
            self.report.add(row)

    def _train_epoch(self, epoch: int) -> None:
        progression = self.progression
        self.model.train()
        self.setup.frozen.hold()
        self.loader.set_epoch(epoch, progression.batches_done)
        if progression.batches_done == 0:
            progression.lr = self.state.lr
            if self.config.workers == 0:
                self.saver.restore_random()
        # Draws from PyTorch's generator: without workers in every epoch, with them in the first of the process only,
        # which in a resumed run is one draw too many.
        with self._reading():
            batches = iter(self.loader)
        self.saver.restore_random()
        saved_s = time.monotonic()
        with Display(self.processes.console, epoch, self.config.epochs, len(self.loader), progression) as display:
            while progression.batches_done < len(self.loader):
                start_s = time.perf_counter()
                left = len(self.loader) - progression.batches_done
                with self._reading():
                    group = list(islice(batches, min(self.config.accumulate, left)))
                waited_s = time.perf_counter() - start_s
                outcome = self.step(group, self._save_is_due(time.monotonic() - saved_s))
                images = sum(len(images) for images, _ in group) * self.processes.count
                progression.add_batches(outcome.losses, len(group), images)
                progression.waited_s += waited_s
                progression.seconds += time.perf_counter() - start_s
                display.update(outcome.losses["loss"], self.state.lr)
                if outcome.save or outcome.stop:
                    self.saver.save()
                    saved_s = time.monotonic()
                    self._leave_if_asked()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Read data inside; where that fails on one process, all save what they have learnt and leave.

        Raises:
            DatasetError, WorkerError: the error of the first process that failed, on all of them.
        """
        failure: DyzooError | None = None
        try:
            yield
        except (DatasetError, WorkerError) as error:
            failure = error
        if self.processes.any(failure is not None):
            failures = gather_everywhere(failure)
            if self.progression.steps_done > self.saver.saved_steps:
                self.saver.save()
            raise failure or next(filter(None, failures))

    def _save_is_due(self, since_s: float) -> bool:
        """Whether the step under way ends with a checkpoint."""
        if self.save_steps is not None:
            return (self.progression.steps_done + 1) % self.save_steps == 0
        return self.save_seconds is not None and since_s >= self.save_seconds

    def step(self, batches: Sequence[Batch], save: bool = False) -> StepOutcome:
        """Update the weights, and their moving average, by the mean gradient of the batches.

        Args:
            batches: those of this process.
            save: whether this process wants a checkpoint; the outcome says what all have agreed on.

        Raises:
            TrainingError: a loss or the gradient is not finite; the weights are as before.
        """
        state, processes, stop = self.state, self.processes, bool(self.stop.received)
        state.optimizer.zero_grad(set_to_none=True)
        values: Tensor | float = 0.0
        for number, (images, targets) in enumerate(batches, start=1):
            is_last = number == len(batches)
            with nullcontext() if is_last else processes.no_sync(state.called):
                with state.autocast:
                    losses: dict[str, Tensor] = state.called(images, targets)
                loss = torch.stack(list(losses.values())).sum()
                state.scaler.scale(loss / len(batches) if len(batches) > 1 else loss).backward()
            values = values + torch.stack([loss, *losses.values()]).detach().float() / len(batches)

        # Losses and wishes as means over the processes, in one exchange.
        values = torch.as_tensor(values)
        wishes = values.new_tensor([stop, save and processes.is_main])
        *means, stop_wish, save_wish = processes.mean(torch.cat([values, wishes])).tolist()
        named = dict(zip(("loss", *losses), means, strict=True))
        if not math.isfinite(named["loss"]):
            raise self._not_finite(batches, named)

        state.scaler.unscale_(state.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), state.clip_norm)
        if not state.scaler.is_enabled() and not math.isfinite(norm.item()):  # the scaler skips such a step itself
            raise self._not_finite(batches, {**named, "gradient norm": norm.item()})
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.schedule.step()
        if state.ema is not None:
            state.ema.update(state.model, step=state.schedule.last_epoch)
        return StepOutcome(named, stop_wish > 0, save_wish > 0)

    def _not_finite(self, batches: Sequence[Batch], values: dict[str, float]) -> TrainingError:
        """The error of a step whose numbers are not finite, on every process at once; keeps the images of the step."""
        parts = ", ".join(f"{name} {value:.3g}" for name, value in values.items() if name != "loss")
        reason = f"the loss is no longer finite ({parts}): lower --lr, or use --precision fp32"
        folder, step = self.config.folder / NOT_FINITE_NAME, self.progression.steps_done + 1
        paths = {sample.image_id: sample.image_path for sample in self.setup.train_set.samples}
        kept = keep_batches(folder, batches, paths, self.model.labels, reason, step, self.processes.index)
        return TrainingError(f"{reason}; the images of step {step} are in {kept}" if kept else reason)

    def _leave_if_asked(self) -> None:
        if signal := max(gather_everywhere(self.stop.received)):
            raise departure(signal)
