"""The training loop."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor

from dyzoo.config import DetectorConfig
from dyzoo.data import DetectionDataset, open_dataset
from dyzoo.data.loader import build_loader
from dyzoo.data.transforms import train_transform
from dyzoo.detector import Detector
from dyzoo.errors import TrainingError
from dyzoo.evaluation import Evaluation, evaluate
from dyzoo.files import write_text
from dyzoo.recipe import Precision, TrainConfig
from dyzoo.training.checkpoint import STATE_NAME, Stateful, load_state, save_state
from dyzoo.training.report import Report, Row
from dyzoo.training.schedule import build_optimizer, build_schedule
from dyzoo.zoo import BEST_NAME, model_config

console = Console(highlight=False, markup=False, soft_wrap=True)  # file names may hold [brackets]


def train(config: TrainConfig) -> Evaluation:
    """Train a detector and keep the best one.

    Writes into `config.folder`: `best/` (weights and configuration of the epoch with the highest validation AP, EMA
    weights), `last.pt` (state after the last whole epoch, for `resume`), `metrics.csv`, `curves.png`, `tensorboard/`,
    `train.json`, and at the end `evaluation/`. Stopping it at any time loses at most the epoch under way.

    Returns:
        The evaluation of the best detector on the validation split.

    Raises:
        DatasetError: the dataset cannot be used.
        UnknownModelError: no such model or backbone weights.
        TrainingError: the folder holds another run, there is nothing to resume, or the loss is no longer finite.
    """
    return Trainer(config).run()


@dataclass
class Progression:
    """Where a run stands; saved with its state."""

    epochs_done: int = 0
    best_epoch: int = 0
    best_ap: float = -1.0


class Trainer:
    """Everything one run holds, from the settings to the progress made."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.folder = config.folder
        self.device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if not config.resume and (self.folder / STATE_NAME).exists():
            raise TrainingError(f"{self.folder} holds a run already: go on with --resume, or choose another --out")
        torch.manual_seed(config.seed)
        train_set = open_dataset(config.data, split=config.train_split)
        self.val_set = open_dataset(config.data, split=config.val_split, labels=train_set.labels)
        for dataset, split in ((train_set, config.train_split), (self.val_set, config.val_split)):
            _say_what_is_there(dataset, split)
        detector_config = _detector_config(config, train_set.labels)
        pretrained = False if config.resume else config.backbone_weights or config.pretrained_backbone
        self.model = Detector(detector_config, pretrained).to(self.device)
        preprocess = detector_config.preprocess
        train_set.transform = train_transform((preprocess.shortest_edge, preprocess.longest_edge), config.transform)
        self.loader = build_loader(train_set, config.batch_size, seed=config.seed, workers=config.workers)
        self.optimizer = build_optimizer(self.model, config)
        self.schedule = build_schedule(self.optimizer, config, len(self.loader))
        self.precision = precision_dtype(config.precision, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)
        self.ema = ModelEmaV3(self.model, decay=config.ema_decay, use_warmup=True) if config.ema_decay else None
        self.progression = Progression()
        if config.resume:
            self.progression = Progression(**load_state(self.folder, self._parts()))  # type: ignore[arg-type]

    @property
    def evaluated_model(self) -> Detector:
        """The averaged weights if there are any."""
        return self.ema.module if self.ema is not None else self.model

    def _parts(self) -> dict[str, Stateful]:
        parts: dict[str, Stateful] = {
            "model": self.model,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "scaler": self.scaler,
        }
        return parts if self.ema is None else {**parts, "ema": self.ema.module}

    def run(self) -> Evaluation:
        """Train the epochs that are left, then evaluate the best detector."""
        config, progression = self.config, self.progression
        write_text(self.folder / "train.json", config.to_json())
        report = Report(self.folder, progression.epochs_done)
        try:
            for epoch in range(progression.epochs_done + 1, config.epochs + 1):
                row: Row = {"epoch": epoch, "lr": self.optimizer.param_groups[-1]["lr"], **self._train_epoch(epoch)}
                if epoch % config.validate_every == 0 or epoch == config.epochs:
                    row.update(self._validate(epoch))
                progression.epochs_done = epoch
                save_state(self.folder, self._parts(), vars(progression))
                report.add(row)
                console.print(_summary(row, config.epochs, progression))
        except KeyboardInterrupt:
            console.print(f"stopped; {progression.epochs_done} whole epochs are kept in {self.folder}: add --resume")
            raise
        finally:
            report.close()
        best = Detector.from_pretrained(self.folder / BEST_NAME, self.device)
        evaluation = evaluate(best, self.val_set)
        evaluation.save(self.folder / "evaluation")
        return evaluation

    def _train_epoch(self, epoch: int) -> Row:
        self.model.train()
        self.loader.set_epoch(epoch)
        totals: dict[str, float] = {}
        images_seen, waited_s, start_s = 0, 0.0, time.perf_counter()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            bar = progress.add_task(f"epoch {epoch}/{self.config.epochs}", total=len(self.loader))
            batches = iter(self.loader)
            for _ in range(len(self.loader)):
                asked_s = time.perf_counter()
                images, targets = next(batches)
                waited_s += time.perf_counter() - asked_s
                losses = self._train_step(images, targets)
                for name, value in losses.items():
                    totals[name] = totals.get(name, 0.0) + value
                images_seen += len(images)
                progress.update(bar, advance=1, description=f"epoch {epoch}/{self.config.epochs} {losses['loss']:.3f}")
        seconds = time.perf_counter() - start_s
        means: Row = {name: value / len(self.loader) for name, value in totals.items()}
        return {**means, "images_per_s": images_seen / seconds, "data_wait": waited_s / seconds}

    def _train_step(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, float]:
        with self._autocast():
            losses: dict[str, Tensor] = self.model(images, targets)
        loss = torch.stack(list(losses.values())).sum()
        if not math.isfinite(loss.item()):
            raise _not_finite(losses)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        if not self.scaler.is_enabled() and not math.isfinite(norm.item()):  # the scaler skips such a step itself
            raise _not_finite({**losses, "gradient norm": norm})
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.ema is not None:
            self.ema.update(self.model, step=self.schedule.last_epoch)
        return {"loss": loss.item(), **{name: value.item() for name, value in losses.items()}}

    def _validate(self, epoch: int) -> Row:
        with self._autocast():
            evaluation = evaluate(self.evaluated_model, self.val_set, batch_size=self.config.batch_size)
        ap = evaluation.metrics["AP"] or 0.0
        if ap > self.progression.best_ap:
            self.progression.best_ap, self.progression.best_epoch = ap, epoch
            self.evaluated_model.save_pretrained(self.folder / BEST_NAME, card=False)  # nothing final is measured yet
        return {"AP": ap, "AP50": evaluation.metrics["AP50"] or 0.0}

    def _autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)


def _not_finite(values: dict[str, Tensor]) -> TrainingError:
    parts = ", ".join(f"{name} {value.item():.3g}" for name, value in values.items())
    return TrainingError(f"the loss is no longer finite ({parts}): lower --lr, or use --precision fp32")


def precision_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The type that matrix products run in; "auto" is bfloat16 where the hardware has it."""
    if precision == "auto":
        if device.type == "cuda":
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            native = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
        return torch.bfloat16 if native else torch.float32
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]


def _detector_config(config: TrainConfig, labels: tuple[str, ...]) -> DetectorConfig:
    detector = replace(model_config(config.model), labels=labels)
    if config.backbone is not None:
        detector = replace(detector, backbone=replace(detector.backbone, name=config.backbone))
    if config.size_px is None:
        return detector
    known = detector.preprocess
    longest = round(known.longest_edge * config.size_px / known.shortest_edge)
    return replace(detector, preprocess=replace(known, shortest_edge=config.size_px, longest_edge=longest))


def _say_what_is_there(dataset: DetectionDataset, split: str) -> None:
    boxes = sum(len(sample.labels) for sample in dataset.samples)
    console.print(f"{split}: {len(dataset)} images, {boxes} boxes, classes {', '.join(dataset.labels)}")
    for note in dataset.notes:
        console.print(f"  {note}")


def _summary(row: Row, epochs: int, progression: Progression) -> str:
    words = [f"epoch {row['epoch']:.0f}/{epochs}", f"loss {row['loss']:.4f}"]
    if "AP" in row:
        words += [f"AP {row['AP']:.4f}", f"AP50 {row['AP50']:.4f}", f"(best AP {progression.best_ap:.4f})"]
    return "  ".join([*words, f"{row['images_per_s']:.1f} images/s", f"waiting for data {row['data_wait']:.0%}"])
