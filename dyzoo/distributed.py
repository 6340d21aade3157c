"""Values that processes which train together exchange; alone, every function here gives back what it was given.

All but the two questions are collective: every process has to call them, in the same order.
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

MAIN = 0  # the process that prints and writes

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


@torch.no_grad()
def copy_from_main(module: nn.Module) -> None:
    """Give every process the main one's parameters and buffers."""
    if process_count() == 1:
        return
    for value in module.state_dict().values():
        dense = value.contiguous()  # channels-last weights
        dist.broadcast(dense, src=MAIN)
        value.copy_(dense)


def leave() -> None:
    """End the group, when this process has nothing more to tell."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
