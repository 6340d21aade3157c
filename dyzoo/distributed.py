"""Values that processes which work together exchange; alone, every function here gives back what it was given.

All but the two questions are collective: every process has to call them, in the same order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dyzoo.environment import launched_processes
from dyzoo.errors import DyzooError, TogetherError, first_line

MAIN = 0  # the process that prints and writes

_PATIENCE = timedelta(minutes=30)  # the others wait while the main process looks for all there is to do
_LONGEST_WORK = timedelta(days=365)
_LOOK_S = 0.1

T = TypeVar("T")


def process_count() -> int:
    """Number of processes that work together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_index() -> int:
    """Index of this process; the main one is 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else MAIN


def sum_over_processes(values: Tensor) -> Tensor:
    """The sums of all processes' tensors; no gradient flows through other processes."""
    if process_count() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


def joint_normalizer(amount: Tensor | float, least: float, device: torch.device) -> Tensor | float:
    """Divisor of each process's summed loss, which makes the mean over all the loss of the joined batch.

    That is `max(sum over processes, least)`, divided by their number. microsoft/DynamicHead and detectron2 divide
    first and take the maximum then, which is the same unless the sum is below `least` times the number of processes.

    Args:
        amount: this process's share, a scalar (its positives, the sum of their weights).
        least: the smallest sum that counts for the joined batch; keeps out a division by zero.
        device: the device that processes exchange tensors on.

    Returns:
        A scalar tensor; alone, a number where `amount` is one.
    """
    if process_count() == 1:
        return amount.clamp(min=least) if isinstance(amount, Tensor) else max(amount, least)
    total = sum_over_processes(torch.as_tensor(amount, dtype=torch.float32, device=device))
    return total.clamp(min=least) / process_count()


def share_from_main(value: T) -> T:
    """The main process's value (of any type that pickles), on every process."""
    if process_count() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=MAIN)
    return box[0]


def gather_everywhere(value: T) -> list[T]:
    """Every process's value, by index, on all of them."""
    if process_count() == 1:
        return [value]
    values: list[T] = [value] * process_count()
    dist.all_gather_object(values, value)
    return values


def gather_on_main(value: T) -> list[T]:
    """Every process's value, by index, on the main process; an empty list on the others."""
    if process_count() == 1:
        return [value]
    is_main = process_index() == MAIN
    values: list[T] | None = [value] * process_count() if is_main else None
    dist.gather_object(value, values, dst=MAIN)
    return values or []


def deal_from_main(values: Sequence[T] | None) -> T:
    """One of the main process's values for each process, by index; the others' argument does not count."""
    if process_count() == 1:
        assert values is not None
        return values[MAIN]
    box: list[Any] = [None]
    dist.scatter_object_list(box, list(values) if values is not None else None, src=MAIN)  # type: ignore[arg-type]
    return box[0]  # type: ignore[no-any-return]


def do_on_main(action: Callable[[], T]) -> T:
    """Do it on the main process alone; every process gets its result, or raises its error.

    A `DyzooError` or `OSError` reaches all, so that none waits for a process that has given up. That of the others has
    a `TogetherError` as its cause, so that one process can say it for all.
    """
    if process_count() == 1:
        return action()
    result: Any = None
    failure: Exception | None = None
    is_main = process_index() == MAIN
    if is_main:
        try:
            result = action()
        except (DyzooError, OSError) as error:
            failure = error
    result, failure = share_from_main((result, failure))
    if failure is not None:
        raise failure from (failure.__cause__ if is_main else TogetherError("the main process has failed"))
    return result  # type: ignore[no-any-return]


class Meeting:
    """A point that all processes come to when their work is done, however long one has to wait for another.

    Made by all of them before the work, during which they have nothing to do with each other.
    """

    def __init__(self) -> None:
        self._group: Any = dist.new_group(backend="gloo", timeout=_LONGEST_WORK) if process_count() > 1 else None

    def wait(self) -> None:
        """Wait for the others.

        Raises:
            TogetherError: one of them has ended without coming here.
        """
        if self._group is None:
            return
        try:
            work: Any = dist.barrier(self._group, async_op=True)
            while not work.is_completed():
                time.sleep(_LOOK_S)  # in Python, which Ctrl-C reaches
            work.wait()
        except RuntimeError:
            raise TogetherError("another process has ended before its work was done: --resume goes on") from None


@torch.no_grad()
def copy_from_main(module: nn.Module) -> None:
    """Give every process the main one's parameters and buffers."""
    if process_count() == 1:
        return
    for value in module.state_dict().values():
        dense = value.contiguous()  # channels-last weights
        dist.broadcast(dense, src=MAIN)
        value.copy_(dense)


def enter() -> None:
    """Form the group of all processes that a launcher such as torchrun has started; alone, there is none to form.

    They talk to each other on the CPU (gloo), whatever device each works on.

    Raises:
        TogetherError: they do not find each other.
    """
    if launched_processes() == 1 or dist.is_initialized():
        return
    try:
        dist.init_process_group("gloo", timeout=_PATIENCE)
    except (ValueError, RuntimeError) as error:
        raise TogetherError(
            f"launched as {launched_processes()} processes, which do not find each other: {first_line(error)}"
        ) from None


def leave() -> None:
    """End the group, when this process has nothing more to tell."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
