"""The model and all that changes with every step."""

from __future__ import annotations

import torch
from timm.utils.model_ema import ModelEmaV3
from torch.optim.swa_utils import AveragedModel

from dyzoo.config.training import ResolvedConfig
from dyzoo.model.detector import Detector
from dyzoo.training.checkpoint import Stateful
from dyzoo.training.optimizer import build_optimizer, build_schedule
from dyzoo.training.processes import Processes


class TrainingState:
    """A model with its optimizer, learning rates, loss scale and averages; `Trainer.step` changes them.

    Args:
        model: on the device of `processes`.
        config: rates, precision, averaging.
        processes: those that train together.
        batches_per_epoch: number of batches that each process sees in an epoch.
        images: number in the data set; a step sees no more than these.

    Attributes:
        called: the model to call in training, data parallel over the processes.
        joined_batch_size: images in a step, over all batches and processes; the learning rate is scaled by it.
        steps_per_epoch: the last step of an epoch may have fewer batches.
        precision: type that matrix products run in.
        autocast: context in which matrix products run in `precision`.
        scaler: keeps float16 gradients from vanishing; does nothing in other precisions.
        ema: the averaged weights, or None.
        average: the mean of the weights of the last epochs, or None.
    """

    def __init__(
        self, model: Detector, config: ResolvedConfig, processes: Processes, batches_per_epoch: int, images: int
    ) -> None:
        self.model = model
        self.clip_norm = config.clip_norm
        self.joined_batch_size = min(config.batch_size * config.accumulate * processes.count, images)
        self.steps_per_epoch = -(-batches_per_epoch // config.accumulate)
        self.optimizer = build_optimizer(model, config, self.joined_batch_size)
        self.schedule = build_schedule(self.optimizer, config, self.steps_per_epoch)
        self.precision = processes.precision(config.precision)
        device_type = processes.device.type
        self.autocast = torch.autocast(device_type, self.precision, enabled=self.precision != torch.float32)
        self.scaler = torch.amp.GradScaler(device_type, enabled=self.precision == torch.float16)
        self.ema = ModelEmaV3(model, decay=config.ema_decay, use_warmup=True) if config.ema_decay else None
        self.average = AveragedModel(model, use_buffers=True) if config.average_last else None
        self.called = processes.wrap(model)

    @property
    def evaluated_model(self) -> Detector:
        """The averaged weights if there are any."""
        return self.ema.module if self.ema is not None else self.model

    @property
    def lr(self) -> float:
        """Learning rate of the next step, outside the backbone."""
        return self.optimizer.param_groups[-1]["lr"]

    def parts(self) -> dict[str, Stateful]:
        """The parts whose states a checkpoint holds."""
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
