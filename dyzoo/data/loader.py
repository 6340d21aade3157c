"""Batches for training: the order and every random number are decided by (seed, epoch, place in the epoch) alone.

Neither the number of workers nor an interruption changes what the model is shown.
"""

from __future__ import annotations

import atexit
import signal
import sys
import weakref
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data._utils import signal_handling

from dyzoo.data.dataset import DetectionDataset
from dyzoo.data.mixing import Mixing
from dyzoo.errors import DatasetError, WorkerError
from dyzoo.model.targets import Target

GRACE_S = 30  # that launchers and schedulers give, too

Batch = tuple[list[torch.Tensor], list[Target]]
Key = tuple[int, int, bool]  # which sample, the seed of its augmentation, and whether it is mixed with others

_KILLED = {
    signal.SIGKILL: "as a system that has run out of memory does: give fewer --workers or a smaller --batch-size",
    signal.SIGBUS: "as where shared memory (/dev/shm) is full: make it larger, or give --workers 0",
}


class EpochBatches(Sampler[list[Key]]):
    """Yields batches of keys. All that changes with the epoch is in them, as workers outlive it."""

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        process: int = 0,
        processes: int = 1,
        mixed_epochs: int = 0,
    ) -> None:
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.process = process
        self.processes = processes
        self.mixed_epochs = mixed_epochs
        self.epoch = 0
        self.first_batch = 0

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Choose the order of the next iteration, and the batch it starts with."""
        self.epoch = epoch
        self.first_batch = first_batch

    def __len__(self) -> int:
        joined = self.batch_size * self.processes
        return max(self.length // joined, 1) if self.shuffle and self.length else -(-self.length // joined)

    def __iter__(self) -> Iterator[list[Key]]:
        state = np.random.SeedSequence((self.seed, self.epoch)).generate_state(1, np.uint64)  # mixes the two
        generator = torch.Generator().manual_seed(int(state[0]))
        order = torch.randperm(self.length, generator=generator) if self.shuffle else torch.arange(self.length)
        seeds = torch.randint(2**62, (self.length,), generator=generator)
        mixed = self.mixed_epochs > 0 and self.epoch <= self.mixed_epochs
        keys = [(index, seed, mixed) for index, seed in zip(order.tolist(), seeds.tolist(), strict=True)]
        joined = self.batch_size * self.processes
        for number in range(self.first_batch, len(self)):
            together = keys[number * joined : (number + 1) * joined]
            share = -(-len(together) // self.processes)  # less than `batch_size` in a batch that is not full
            first = self.process * share
            yield [together[place % len(together)] for place in range(first, first + share)]


class _SeededDataset(Dataset[tuple[torch.Tensor, Target] | DatasetError]):
    """Draws each sample under its own seed and leaves torch's generator as it was.

    An error is handed over as it is: one that is raised reaches the process of the training as the text of a traceback.
    """

    def __init__(self, dataset: DetectionDataset, mixing: Mixing | None) -> None:
        self.dataset = dataset
        self.mixing = mixing

    def __getitem__(self, key: Key) -> tuple[torch.Tensor, Target] | DatasetError:
        index, seed, mixed = key
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                return self.mixing(self.dataset, index) if mixed and self.mixing is not None else self.dataset[index]
            except DatasetError as error:
                return error


def collate(batch: Sequence[tuple[torch.Tensor, Target] | DatasetError]) -> Batch | DatasetError:
    """Images and targets as two lists: sizes differ, and the detector pads (`dyzoo.model.preprocess.batch_images`).

    Where a sample could not be read, the batch is the reason.
    """
    images, targets = [], []
    for sample in batch:
        if isinstance(sample, DatasetError):
            return sample
        images.append(sample[0])
        targets.append(sample[1])
    return images, targets


class EpochLoader(DataLoader[Any]):
    """A `DataLoader` of `Batch` that knows of epochs; its length is that of a whole one.

    Iterating raises a `DatasetError` where not one image can be read, and a `WorkerError` where a worker has died.
    Both come from the iterator alone: PyTorch would raise the second one wherever it finds the program, be it in the
    middle of a step.
    """

    batch_sampler: EpochBatches

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        # At Python's exit, before its own way, a SIGTERM, which workers outlive for `GRACE_S`.
        end = partial(_end_workers, weakref.ref(self))
        atexit.register(end)
        weakref.finalize(self, atexit.unregister, end).atexit = False

    def end_workers(self) -> None:
        """End the processes that read images; the next iteration starts others."""
        iterator, self._iterator = self._iterator, None
        if self.num_workers and iterator is not None:
            iterator._shutdown_workers()  # type: ignore[attr-defined]

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Choose the order and the random numbers of the iteration that starts next, and the batch it starts with."""
        self.batch_sampler.set_epoch(epoch, first_batch)

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        try:
            batches = super().__iter__()
        except RuntimeError as error:
            if dead := self._dead_worker():
                raise dead from error
            raise
        if getattr(batches, "_worker_pids_set", False):  # the list that PyTorch's handler of SIGCHLD goes through
            signal_handling._remove_worker_pids(id(batches))
            batches._worker_pids_set = False  # type: ignore[attr-defined]
        return self._checked(batches)

    def _checked(self, batches: Iterator[Batch | DatasetError]) -> Iterator[Batch]:
        while True:
            if dead := self._dead_worker():  # what the others have read ahead would hide it for some batches
                raise dead
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:
                if dead := self._dead_worker():
                    raise dead from error
                raise
            if isinstance(batch, DatasetError):
                raise batch
            yield batch

    def _dead_worker(self) -> WorkerError | None:
        """The error of one that has died, if one has; the others are ended then."""
        for worker in getattr(self._iterator, "_workers", ()):
            if worker.is_alive():
                continue
            self.end_workers()
            code = worker.exitcode
            if code is not None and code < 0:
                number = signal.Signals(-code)
                reason = f"was killed ({number.name}{f', {_KILLED[number]}' if number in _KILLED else ''})"
            else:
                reason = f"has ended with exit code {code}"
            return WorkerError(f"process {worker.pid}, which read images, {reason}")
        return None


def _end_workers(loader: weakref.ref[EpochLoader]) -> None:
    if (alive := loader()) is not None:  # one that has gone has taken its workers along
        alive.end_workers()


def _outlive_signals(worker: int) -> None:
    """Ctrl-C, and a launcher's or scheduler's SIGTERM, reach workers too: let the step under way have its images."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE_S) if hasattr(signal, "alarm") else sys.exit(0))


def build_loader(
    dataset: DetectionDataset,
    batch_size: int,
    *,
    seed: int = 0,
    workers: int = 0,
    shuffle: bool = True,
    pin_memory: bool = False,
    process: int = 0,
    processes: int = 1,
    mixing: Mixing | None = None,
    mixed_epochs: int = 0,
) -> EpochLoader:
    """Loader for training; call `set_epoch` before each epoch.

    Processes that train together get batches of the same size that make up one joined batch, the one that a single
    process with `processes * batch_size` would get. A last joined batch that is not full is left out, as its few
    images would weigh more than the others; a dataset smaller than one comes as one small batch, where images repeat
    only to give each process as many. With `shuffle=False` nothing is left out.

    Args:
        dataset: its `transform` has to draw its random numbers from torch.
        batch_size: images in a batch of one process.
        seed: decides order and augmentation, together with the epoch.
        workers: processes that read images; 0 reads in this one.
        shuffle: another order each epoch.
        pin_memory: for faster copies to a GPU.
        process, processes: which of how many that train together this loader is for.
        mixing: takes the place of the dataset's `transform` in the first `mixed_epochs` epochs, counted from 1.
        mixed_epochs: 0 mixes never.

    Raises:
        ValueError: `batch_size` is less than 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected at least 1")
    return EpochLoader(
        _SeededDataset(dataset, mixing),
        batch_sampler=EpochBatches(len(dataset), batch_size, seed, shuffle, process, processes, mixed_epochs),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        collate_fn=collate,
        worker_init_fn=_outlive_signals,
    )
