"""The processes of one training, set up by Hugging Face Accelerate."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs
from rich.console import Console
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from dyzoo.config.training import Precision
from dyzoo.distributed import MAIN, do_on_main, sum_over_processes
from dyzoo.environment import launched_processes, launcher_precision
from dyzoo.errors import TrainingError
from dyzoo.model.detector import Detector
from dyzoo.text import printable

PATIENCE = timedelta(hours=2)  # the others wait while the main process scores a large validation split
DATA_PARALLEL = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)

T = TypeVar("T")


class _Console(Console):
    """A console for lines that hold names of strangers: nothing in them that a terminal would obey reaches it."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(printable(each) if isinstance(each, str) else each for each in objects), **options)


class Processes:
    """One process as it is, or several that `torchrun` or `accelerate launch` started, on the CPU or a GPU each.

    Accelerate forms the group and wraps the model for data parallel training. Its other services stay unused: it keeps
    a precision for the life of the interpreter, has no float16 on the CPU, and shards batches by wrapping the loader,
    where the order of the images is decided by seed, epoch and index here.

    Args:
        device_name: None takes a GPU if there is one. Of several processes each takes its own.

    Attributes:
        device: the one of this process.
        index, count: which of how many processes this is.
        is_main: whether this process prints and writes.
        console: prints on the main process and nowhere else.

    Raises:
        TrainingError: the launcher asks for something else than data parallel training, or the processes do not find
            each other.
    """

    def __init__(self, device_name: str | None = None) -> None:
        chosen = torch.device(device_name or ("cuda" if torch.cuda.is_available() else "cpu"))
        launched = launched_processes()
        if launched > 1 and chosen.index is not None:
            raise TrainingError(f"the device is {chosen} for {launched} processes: leave it out, each takes its own")
        self._data_parallel = DistributedDataParallelKwargs()
        self.accelerator = Accelerator(
            cpu=launched > 1 and chosen.type == "cpu",  # alone, Accelerate's device is not used
            mixed_precision="no",
            kwargs_handlers=[
                self._data_parallel,
                InitProcessGroupKwargs(timeout=PATIENCE),
            ],
        )
        kind = self.accelerator.distributed_type
        if kind not in DATA_PARALLEL:
            raise TrainingError(f"launched for {kind.value}, expected plain data parallel training (DDP)")
        self.index, self.count = self.accelerator.process_index, self.accelerator.num_processes
        self.is_main = self.index == MAIN
        if self.count != launched:
            raise TrainingError(
                f"launched as {launched} processes that train on their own: choose the device of all with --device"
            )
        self.device = self.accelerator.device if self.count > 1 else chosen
        self.console = _Console(highlight=False, markup=False, soft_wrap=True, quiet=not self.is_main)

    def precision(self, wanted: Precision) -> torch.dtype:
        """The type that matrix products run in.

        "auto" is what `accelerate launch --mixed_precision` was told, else bfloat16 where the hardware has it.
        """
        launcher = launcher_precision()
        if wanted == "auto" and launcher in ("bf16", "fp16"):
            return precision_dtype(cast(Precision, launcher), self.device)
        return precision_dtype(wanted, self.device)

    def wrap(self, model: Detector) -> Any:
        """The model to call in training: itself, or data parallel over the processes with the main one's weights."""
        if self.count > 1:
            self._data_parallel.find_unused_parameters = has_unused_parameters(model)
        return self.accelerator.prepare_model(model, device_placement=False)

    def no_sync(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Keep the gradients of backward passes inside to this process; the first one outside adds all up."""
        return self.accelerator.no_sync(model) if self.count > 1 else nullcontext()

    def share_batch_norm(self, model: Detector) -> Detector:
        """The model with batch norms over the images of all processes; with one process nothing changes.

        Raises:
            TrainingError: on the CPU, where PyTorch has none.
        """
        if self.count == 1:
            return model
        if self.device.type == "cpu":
            raise TrainingError("synchronised batch norm needs GPUs: leave --sync-bn out on the CPU")
        return cast(Detector, convert_sync_batchnorm(model))

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes of each value."""
        return sum_over_processes(values) / self.count if self.count > 1 else values

    def any(self, value: bool) -> bool:
        """Whether it holds on one of the processes; the same answer on all."""
        if self.count == 1:
            return value
        return bool(sum_over_processes(torch.tensor(float(value), device=self.device)) > 0)

    def on_main(self, action: Callable[[], T]) -> T:
        """Do it on the main process alone; every process gets its result, or raises its error.

        A `DyzooError` or `OSError` reaches all, so that none waits for a process that has given up.
        """
        return do_on_main(action)


def has_unused_parameters(model: Detector) -> bool:
    """Whether some that learn have no part in the losses, such as a backbone's layers past the last map it gives.

    Data parallel training waits for them unless it is told to look for them, which costs time in every step.
    """
    with torch.random.fork_rng(), torch.enable_grad():
        copy = deepcopy(model).train()
        side_px = 4 * max(copy.config.fpn.backbone_strides_px)  # batch norms want more than one value
        image = torch.zeros(3, side_px, side_px, dtype=torch.uint8)
        box = torch.tensor([[0.25, 0.25, 0.75, 0.75]]) * side_px
        losses = copy([image], [{"boxes": box, "labels": torch.zeros(1, dtype=torch.int64)}])
        torch.stack(list(losses.values())).sum().backward()
    return any(parameter.requires_grad and parameter.grad is None for parameter in copy.parameters())


def precision_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The type that matrix products run in; "auto" is bfloat16 where the hardware has it."""
    if precision == "auto":
        if device.type == "cuda":
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            native = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
        return torch.bfloat16 if native else torch.float32
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
