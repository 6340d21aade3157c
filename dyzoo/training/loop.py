"""The training loop: epochs, evaluations, checkpoints."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from itertools import islice
from typing import Any, TypeVar, cast

from dyzoo.config.training import ResolvedConfig, TrainConfig, parse_save_every
from dyzoo.data.loader import Batch
from dyzoo.distributed import copy_from_main, gather_everywhere, gather_on_main, share_from_main
from dyzoo.errors import DatasetError, DyzooError, TrainingError, WorkerError
from dyzoo.evaluation import Evaluation, evaluate_together
from dyzoo.evaluation.report import REPORT_NAME, write_report
from dyzoo.files import sweep, write_text
from dyzoo.locks import RunLock
from dyzoo.model.detector import Detector
from dyzoo.model.transfer import Transfer, start_from
from dyzoo.training.checkpoint import FOLDER_NAME, LABELS, Checkpoints, check_settings, load_parts
from dyzoo.training.defaults import resolve
from dyzoo.training.display import Display, EpochTable
from dyzoo.training.engine import Engine, NotFiniteError, StepOutcome
from dyzoo.training.failure import keep_batches
from dyzoo.training.processes import Processes
from dyzoo.training.progression import Progression, Row
from dyzoo.training.randomness import random_state, seed_process, set_random_state
from dyzoo.training.record import description, run_record
from dyzoo.training.report import Report
from dyzoo.training.setup import detector_config, open_splits, starting_detector, training_loader
from dyzoo.training.signals import StopRequest, departure
from dyzoo.training.stages import FrozenStages
from dyzoo.zoo.creation import BEST_NAME

EVALUATION_NAME = "evaluation"
NOT_FINITE_NAME = "not_finite"
WRITTEN_FOLDERS = (FOLDER_NAME, BEST_NAME, EVALUATION_NAME, f"{NOT_FINITE_NAME}/*")  # patterns below the run's

T = TypeVar("T")


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


class Trainer:
    """Everything one run holds, from the settings to the progress made.

    Args:
        config: the settings.
        processes: that train together; None: as they were launched.
    """

    def __init__(self, config: TrainConfig, processes: Processes | None = None) -> None:
        self.folder = config.folder
        self.processes = processes or Processes(config.device)
        self.console = self.processes.console
        self.checkpoints = Checkpoints(self.folder, config.keep)
        self.progression = Progression()
        self._random: dict[str, Any] | None = None  # of a checkpoint, until the batches of its epoch are under way
        self._saved_steps = 0
        if not config.resume and self.processes.on_main(self.checkpoints.paths):
            raise TrainingError(f"{self.folder} holds a run already: go on with --resume, or choose another --out")
        seed_process(config.seed)
        self.train_set, self.val_set = open_splits(config, self.console)
        self.train_description = description(self.train_set)
        source = starting_detector(config)
        config = self.config = self._resolved(config, source)
        described = detector_config(config, self.train_set.labels, source)
        pretrained = config.backbone_weights or config.pretrained_backbone
        model = Detector(described, False if config.resume or source is not None else pretrained)
        if source is not None and not config.resume:
            self._say_what_is_kept(start_from(model, source))
        model = model.to(self.processes.device)
        if config.sync_bn:
            model = self.processes.share_batch_norm(model)
        self.frozen = FrozenStages(model.backbone, config.freeze)
        self.loader = training_loader(config, self.train_set, described, self.processes)
        self.engine = Engine(model, config, self.processes, len(self.loader), len(self.train_set))
        if self.engine.joined_batch_size > config.batch_size:
            self.console.print(
                f"a step: {config.batch_size} images x {config.accumulate} batches x {self.processes.count} processes"
            )
        if self.processes.count > 1:  # other draws on each, from the same weights
            seed_process(config.seed, self.processes.index)
        if config.resume:
            self._resume()

    @property
    def model(self) -> Detector:
        """The one that is trained, not the averaged one."""
        return self.engine.model

    def run(self) -> Evaluation:
        """Train what is left, then evaluate the best detector."""
        try:
            self._train()
            return self._evaluate_best()
        except (DatasetError, WorkerError) as error:
            raise TrainingError(f"{error}; {self.processes.on_main(self.checkpoints.kept)}") from error

    def _train(self) -> None:
        self.processes.on_main(self._begin_files)
        self.report = self._open_report() if self.processes.is_main else None
        self.table = EpochTable(self.config.epochs, self.console)
        self.stop = StopRequest(insist=self.processes.count == 1)
        try:
            with self.stop:
                while self.progression.epochs_done < self.config.epochs and not self._is_out_of_patience():
                    self._run_epoch(self.progression.epochs_done + 1)
                self._try_average()
        except (KeyboardInterrupt, SystemExit):
            self.console.print(f"stopped in epoch {self.progression.epochs_done + 1}; add --resume to go on")
            raise
        finally:
            if self.report is not None:
                self.report.close()

    def _resolved(self, config: TrainConfig, source: Detector | None) -> ResolvedConfig:
        """With what the settings leave open; the main process's choice, as the others may have less memory free."""
        described = detector_config(config, self.train_set.labels, source)
        device, count, precision = (
            self.processes.device,
            self.processes.count,
            self.processes.precision(config.precision),
        )
        say = self.console.print
        return self.processes.on_main(lambda: resolve(config, self.train_set, described, device, count, precision, say))

    def _say_what_is_kept(self, transfer: Transfer) -> None:
        kept, new = (", ".join(labels) or "none" for labels in transfer)
        self.console.print(f"starting from {self.config.weights}: classes it knows {kept}; new {new}")

    def _begin_files(self) -> None:
        config = self.config
        data = {config.train_split: self.train_description, config.val_split: description(self.val_set)}
        measured = {
            "processes": self.processes.count,
            "images_per_step": self.engine.joined_batch_size,
            "device": self.processes.device.type,
            "precision": str(self.engine.precision).removeprefix("torch."),
        }
        resumed = self.progression.steps_done if config.resume else None
        with self.checkpoints.writing():
            write_text(self.folder / "train.json", config.to_json())
            write_text(self.folder / "run.json", run_record(config, data, measured, resumed))

    def _open_report(self) -> Report:
        with self.checkpoints.writing():
            return Report(self.folder, self.progression.rows, json.loads(self.config.to_json()), self.console.print)

    def _is_out_of_patience(self) -> bool:
        progression, patience = self.progression, self.config.patience
        if patience is None or progression.stale < patience:
            return False
        self.console.print(
            f"no better AP in {progression.stale} evaluations, the best is epoch {progression.best_epoch}'s"
        )
        return True

    def _run_epoch(self, epoch: int) -> None:
        self._train_epoch(epoch)
        row: Row = {"epoch": epoch, "lr": self.progression.lr, **self.progression.epoch_means()}
        start_s = time.perf_counter()
        if is_evaluated := epoch % self.config.validate_every == 0 or epoch == self.config.epochs:
            try:
                row.update(self._validate(epoch, self.engine.evaluated_model))
            except (KeyboardInterrupt, SystemExit, DatasetError):
                self._save()
                raise
        self.progression.add_validation(time.perf_counter() - start_s if is_evaluated else 0.0)
        if self.engine.average is not None and epoch > self.config.epochs - self.config.average_last:
            self.engine.average.update_parameters(self.model)
        self.progression.end_epoch(row)
        self.processes.on_main(lambda: self._report(row))
        self._save()
        self.console.print(self.table.line(row, self.progression))
        self._leave_if_asked()

    def _train_epoch(self, epoch: int) -> None:
        progression, engine = self.progression, self.engine
        self.model.train()
        self.frozen.hold()
        self.loader.set_epoch(epoch, progression.batches_done)
        if progression.batches_done == 0:
            progression.lr = engine.lr
            if self.config.workers == 0:
                self._restore_random()
        # Draws from PyTorch's generator: without workers in every epoch, with them in the first of the process only,
        # which in a resumed run is one draw too many.
        batches = self._read(lambda: iter(self.loader))
        self._restore_random()
        saved_s = time.monotonic()
        with Display(self.console, epoch, self.config.epochs, len(self.loader), progression) as display:
            while progression.batches_done < len(self.loader):
                start_s = time.perf_counter()
                left = len(self.loader) - progression.batches_done
                count = min(self.config.accumulate, left)
                group = self._read(lambda count=count: list(islice(batches, count)))  # type: ignore[misc]
                waited_s = time.perf_counter() - start_s
                due = self._save_is_due(time.monotonic() - saved_s)
                outcome = self._step(group, due)
                images = sum(len(images) for images, _ in group) * self.processes.count
                progression.add_batches(outcome.losses, len(group), images)
                progression.waited_s += waited_s
                progression.seconds += time.perf_counter() - start_s
                display.update(outcome.losses["loss"], engine.lr)
                if outcome.save or outcome.stop:
                    self._save()
                    saved_s = time.monotonic()
                    self._leave_if_asked()

    def _read(self, action: Callable[[], T]) -> T:
        """What `action` reads of the data; if it fails on one process, all save what they have learnt and leave.

        Raises:
            DatasetError, WorkerError: what the first process that failed has to say, on all of them.
        """
        result: T | None = None
        failure: DyzooError | None = None
        try:
            result = action()
        except (DatasetError, WorkerError) as error:
            failure = error
        if self.processes.any(failure is not None):
            failures = gather_everywhere(failure)
            if self.progression.steps_done > self._saved_steps:
                self._save()
            raise failure or next(filter(None, failures))
        return cast(T, result)

    def _step(self, group: list[Batch], save: bool) -> StepOutcome:
        try:
            return self.engine.step(group, stop=bool(self.stop.received), save=save)
        except NotFiniteError as error:
            paths = {sample.image_id: sample.image_path for sample in self.train_set.samples}
            step, index = self.progression.steps_done + 1, self.processes.index
            kept = keep_batches(self.folder / NOT_FINITE_NAME, group, paths, self.model.labels, str(error), step, index)
            raise TrainingError(f"{error}; the images of step {step} are in {kept}" if kept else str(error)) from error

    def _restore_random(self) -> None:
        """Where a checkpoint's generators stood, once."""
        if self._random is not None:
            set_random_state(self._random)
            self._random = None

    def _save_is_due(self, since_s: float) -> bool:
        """Whether the step under way ends with a checkpoint."""
        steps, seconds = parse_save_every(self.config.save_every)
        if steps is not None:
            return (self.progression.steps_done + 1) % steps == 0
        return seconds is not None and since_s >= seconds

    def _leave_if_asked(self) -> None:
        if signal := max(gather_everywhere(self.stop.received)):
            raise departure(signal)

    def _validate(self, epoch: int, model: Detector) -> Row:
        copy_from_main(model)  # each process has batch norm statistics of its own
        with self.stop.at_once() if self.processes.count == 1 else nullcontext(), self.engine.autocast():
            evaluation = evaluate_together(model, self.val_set, batch_size=self.config.batch_size)
        metrics = share_from_main(evaluation.metrics if evaluation is not None else {})
        ap = metrics["AP"] or 0.0
        if self.progression.judge(ap, epoch):
            self.processes.on_main(lambda: self._keep_best(model))
        return {"AP": ap, "AP50": metrics["AP50"] or 0.0}

    def _try_average(self) -> None:
        """Let the mean of the last epochs' weights compete with the best so far."""
        average = self.engine.average
        if average is None or int(average.n_averaged) < 2:
            return
        before = self.progression.best_ap
        row = self._validate(self.progression.epochs_done, cast(Detector, average.module))
        outcome = "the best so far" if self.progression.best_ap > before else f"not better than {before:.4f}"
        self.console.print(
            f"mean of the weights of the last {int(average.n_averaged)} epochs: AP {row['AP']:.4f}, {outcome}"
        )

    def _keep_best(self, model: Detector) -> None:
        with self.checkpoints.writing():
            model.save_pretrained(self.folder / BEST_NAME, card=False)

    def _report(self, row: Row) -> None:
        with self.checkpoints.writing():
            assert self.report is not None
            self.report.add(row)

    def _settings(self) -> dict[str, int | str]:
        return {
            "training images": len(self.train_set),
            LABELS: self.train_description["sha256"],
            "images in a batch of all processes": self.config.batch_size * self.processes.count,
            "accumulated batches": self.config.accumulate,
            "seed": self.config.seed,
        }

    def _save(self) -> None:
        random = gather_on_main(random_state())

        def write() -> None:
            self.checkpoints.save(
                self.progression.steps_done, self.engine.parts(), asdict(self.progression), random, self._settings()
            )

        self.processes.on_main(write)
        self._saved_steps = self.progression.steps_done

    def _resume(self) -> None:
        notes: list[str] = []
        state = self.checkpoints.newest(notes.append)
        for note in notes:
            self.console.print(note)
        check_settings(state, self._settings())
        load_parts(state, self.engine.parts())
        self.progression = progression = Progression(**state["progress"])
        self._saved_steps = progression.steps_done
        self.console.print(f"resuming from {state['path'].name}: {self._place()}")
        if len(state["random"]) == self.processes.count:
            self._random = state["random"][self.processes.index]
        else:
            self.console.print(
                f"{state['path']} is of {len(state['random'])} processes, now there are {self.processes.count}: "
                "the batches stay the same, other random numbers are drawn afresh"
            )
            seed_process(self.config.seed, self.processes.index, self.progression.steps_done)

    def _place(self) -> str:
        """Where the training goes on, in words."""
        progression, epochs = self.progression, self.config.epochs
        if progression.epochs_done >= epochs:
            return f"after step {progression.steps_done}, the last of {epochs} epochs"
        batch = f"batch {progression.batches_done + 1} of {len(self.loader)}"
        return f"after step {progression.steps_done}, with {batch} of epoch {progression.epochs_done + 1} of {epochs}"

    def _evaluate_best(self) -> Evaluation:
        if self.processes.is_main:
            best = Detector.from_pretrained(self.folder / BEST_NAME, self.processes.device)
        else:
            best = Detector(self.model.config).to(self.processes.device).eval()
        copy_from_main(best)
        evaluation = evaluate_together(best, self.val_set)

        def write() -> None:
            with self.checkpoints.writing():
                assert evaluation is not None
                evaluation.save(self.folder / EVALUATION_NAME)
                title = f"{best.config.architecture} on {self.config.data.resolve().name}"
                record = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
                page = self.folder / REPORT_NAME
                write_report(page, self.val_set, evaluation, title=title, rows=self.progression.rows, record=record)

        self.processes.on_main(write)
        shared = share_from_main(evaluation)
        assert shared is not None
        return shared
