"""One step of training: forward and backward over a few batches, then one update of the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from dyzoo.config.training import ResolvedConfig
from dyzoo.data.loader import Batch
from dyzoo.errors import TrainingError
from dyzoo.model.detector import Detector
from dyzoo.training.checkpoint import Stateful
from dyzoo.training.processes import Processes
from dyzoo.training.schedule import build_optimizer, build_schedule


class StepOutcome(NamedTuple):
    """What a step leaves, the same on every process."""

    losses: dict[str, float]  # means over batches and processes: "loss", their sum, and each by name
    stop: bool  # a process was asked to stop
    save: bool  # the main process wants a checkpoint


class NotFiniteError(TrainingError):
    """A loss or the gradient is no number any more; on every process in the same step."""


class Engine:
    """The model and all that changes with every step.

    Args:
        model: on the device of `processes`.
        config: rates, precision, averaging.
        processes: that train together.
        batches_per_epoch: of each process.
        images: in the data set; a step sees no more than these.

    Attributes:
        joined_batch_size: images in a step, over all batches and processes; the learning rate is scaled by it.
        steps_per_epoch: the last step of an epoch may have fewer batches.
    """

    def __init__(
        self, model: Detector, config: ResolvedConfig, processes: Processes, batches_per_epoch: int, images: int
    ) -> None:
        self.model = model
        self.processes = processes
        self.clip_norm = config.clip_norm
        self.joined_batch_size = min(config.batch_size * config.accumulate * processes.count, images)
        self.steps_per_epoch = -(-batches_per_epoch // config.accumulate)
        self.optimizer = build_optimizer(model, config, self.joined_batch_size)
        self.schedule = build_schedule(self.optimizer, config, self.steps_per_epoch)
        self.precision = processes.precision(config.precision)
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=self.precision == torch.float16)
        self.ema = ModelEmaV3(model, decay=config.ema_decay, use_warmup=True) if config.ema_decay else None
        self.average = AveragedModel(model, use_buffers=True) if config.average_last else None
        self.called = processes.wrap(model)

    @property
    def evaluated_model(self) -> Detector:
        """The averaged weights if there are any."""
        return self.ema.module if self.ema is not None else self.model

    @property
    def lr(self) -> float:
        """Of the next step, outside the backbone."""
        return self.optimizer.param_groups[-1]["lr"]

    def parts(self) -> dict[str, Stateful]:
        """What a checkpoint has to hold."""
        parts: dict[str, Stateful] = {
            "model": self.model,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "scaler": self.scaler,
        }
        if self.ema is not None:
            parts["ema"] = self.ema.module
        if self.average is not None:
            parts["average"] = self.average
        return parts

    def autocast(self) -> AbstractContextManager[None]:
        """Matrix products in `precision`."""
        return torch.autocast(self.processes.device.type, self.precision, enabled=self.precision != torch.float32)

    def step(self, batches: Sequence[Batch], stop: bool = False, save: bool = False) -> StepOutcome:
        """Update the weights by the mean gradient of the batches.

        Args:
            batches: of this process.
            stop, save: what this process wishes for; the outcome says what all have agreed on.

        Raises:
            NotFiniteError: a loss or the gradient is not finite; the weights are as before.
        """
        self.optimizer.zero_grad(set_to_none=True)
        values: Tensor | float = 0.0
        for number, (images, targets) in enumerate(batches, start=1):
            is_last = number == len(batches)
            with nullcontext() if is_last else self.processes.no_sync(self.called):
                with self.autocast():
                    losses: dict[str, Tensor] = self.called(images, targets)
                loss = torch.stack(list(losses.values())).sum()
                self.scaler.scale(loss / len(batches) if len(batches) > 1 else loss).backward()
            values = values + torch.stack([loss, *losses.values()]).detach().float() / len(batches)
        *means, stop_wish, save_wish = self._agree(torch.as_tensor(values), stop, save)
        named = dict(zip(("loss", *losses), means, strict=True))
        if not math.isfinite(named["loss"]):
            raise _not_finite(named)
        self._update(named)
        return StepOutcome(named, stop_wish > 0, save_wish > 0)

    def _agree(self, losses: Tensor, stop: bool, save: bool) -> list[float]:
        """Losses and wishes as means over the processes, in one exchange."""
        wishes = losses.new_tensor([stop, save and self.processes.is_main])
        return self.processes.mean(torch.cat([losses, wishes])).tolist()

    def _update(self, losses: dict[str, float]) -> None:
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        if not self.scaler.is_enabled() and not math.isfinite(norm.item()):  # the scaler skips such a step itself
            raise _not_finite({**losses, "gradient norm": norm.item()})
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.ema is not None:
            self.ema.update(self.model, step=self.schedule.last_epoch)


def _not_finite(values: dict[str, float]) -> NotFiniteError:
    parts = ", ".join(f"{name} {value:.3g}" for name, value in values.items() if name != "loss")
    return NotFiniteError(f"the loss is no longer finite ({parts}): lower --lr, or use --precision fp32")
