"""Which weights are the best: evaluations on the validation split, and the detector that is kept."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from typing import cast

from dyzoo.distributed import copy_from_main, share_from_main
from dyzoo.evaluation import Evaluation, evaluate_together
from dyzoo.evaluation.report import REPORT_NAME, write_report
from dyzoo.hub.run_card import BEST_NAME
from dyzoo.model.detector import Detector
from dyzoo.model.graphs import forget
from dyzoo.training.checkpoint import Checkpoints
from dyzoo.training.hints import hints
from dyzoo.training.optimizer import warmup_steps
from dyzoo.training.progression import Progression, Row
from dyzoo.training.setup import Setup
from dyzoo.training.signals import StopRequest

EVALUATION_NAME = "evaluation"


class Validation:
    """Evaluates on all processes and keeps the best detector in `best/`.

    Args:
        setup: whose validation split is used.
        checkpoints: those of the run's folder.
        progression: notes the best evaluation.
        stop: signals reach an evaluation at once; one that is cut short costs nothing but itself.
    """

    def __init__(self, setup: Setup, checkpoints: Checkpoints, progression: Progression, stop: StopRequest) -> None:
        self.setup, self.processes, self.config = setup, setup.processes, setup.config
        self.checkpoints, self.progression, self.stop = checkpoints, progression, stop

    def validate(self, epoch: int, model: Detector) -> Row:
        """Evaluate a model and keep it if it is the best so far.

        Returns:
            "AP" and "AP50" in 0..1.
        """
        copy_from_main(model)  # each process has batch norm statistics of its own
        with self.stop.at_once() if self.processes.count == 1 else nullcontext(), self.setup.state.autocast:
            evaluation = evaluate_together(model, self.setup.val_set, batch_size=self.config.batch_size)
        forget(model)  # which is not the one that trains, where weights are averaged
        metrics = share_from_main(evaluation.metrics if evaluation is not None else {})
        ap = metrics["AP"] or 0.0
        if self.progression.judge(ap, epoch):
            self.processes.on_main(lambda: self._keep_best(model))
        return {"AP": ap, "AP50": metrics["AP50"] or 0.0}

    def _keep_best(self, model: Detector) -> None:
        with self.checkpoints.writing():
            model.save_pretrained(self.config.folder / BEST_NAME, card=False)

    def is_out_of_patience(self) -> bool:
        """Whether too many evaluations have passed without a better AP; says so."""
        progression, patience = self.progression, self.config.patience
        if patience is None or progression.stale < patience:
            return False
        self.processes.console.print(
            f"no better AP in {progression.stale} evaluations, the best is epoch {progression.best_epoch}'s"
        )
        return True

    def try_average(self) -> None:
        """Let the mean of the last epochs' weights compete with the best so far."""
        average = self.setup.state.average
        if average is None or int(average.n_averaged) < 2:
            return
        before = self.progression.best_ap
        row = self.validate(self.progression.epochs_done, cast(Detector, average.module))
        outcome = "the best so far" if self.progression.best_ap > before else f"not better than {before:.4f}"
        self.processes.console.print(
            f"mean of the weights of the last {int(average.n_averaged)} epochs: AP {row['AP']:.4f}, {outcome}"
        )

    def evaluate_best(self) -> Evaluation:
        """Evaluate the best detector; write `evaluation/` and the report of the run, and say why it is a poor one."""
        folder, val_set = self.config.folder, self.setup.val_set
        if self.processes.is_main:
            best = Detector.from_pretrained(folder / BEST_NAME, self.processes.device)
        else:
            best = Detector(self.setup.state.model.config).to(self.processes.device).eval()
        copy_from_main(best)
        evaluation = evaluate_together(best, val_set)
        if evaluation is not None:
            lines = self._hints(evaluation)
            for line in lines:
                self.processes.console.print(line, markup=False)
            evaluation = replace(evaluation, notes=(*lines, *evaluation.notes))

        def write() -> None:
            with self.checkpoints.writing():
                assert evaluation is not None
                evaluation.save(folder / EVALUATION_NAME)
                title = f"{best.config.architecture} on {self.config.data.resolve().name}"
                record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
                page, rows = folder / REPORT_NAME, self.progression.rows
                write_report(page, val_set, evaluation, title=title, rows=rows, record=record)

        self.processes.on_main(write)
        shared = share_from_main(evaluation)
        assert shared is not None
        return shared

    def _hints(self, evaluation: Evaluation) -> list[str]:
        warmup = warmup_steps(self.config, self.setup.state.steps_per_epoch)
        return hints(self.config, evaluation.metrics["AP"], self.progression.steps_done, warmup)
