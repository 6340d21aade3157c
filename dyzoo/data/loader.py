"""Batches for training: the order and every random number are decided by (seed, epoch) alone.

Neither the number of workers nor an interruption between epochs changes what the model is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from dyzoo.data.dataset import DetectionDataset, Target

Batch = tuple[list[torch.Tensor], list[Target]]


def collate(batch: Sequence[tuple[torch.Tensor, Target]]) -> Batch:
    """Images and targets as two lists: sizes differ, and the detector pads (`dyzoo.preprocess.batch_images`)."""
    return [image for image, _ in batch], [target for _, target in batch]


def build_loader(
    dataset: DetectionDataset,
    batch_size: int,
    *,
    seed: int = 0,
    workers: int = 0,
    shuffle: bool = True,
    pin_memory: bool = False,
) -> EpochLoader:
    """Loader for training; call `set_epoch` before each epoch.

    A last batch that is not full is left out, as its few images would weigh more than the others; a dataset smaller
    than one batch comes as one small batch. With `shuffle=False` nothing is left out.

    Args:
        dataset: its `transform` has to draw its random numbers from torch.
        batch_size: images in a batch.
        seed: decides order and augmentation, together with the epoch.
        workers: processes that read images; 0 reads in this one.
        shuffle: another order each epoch.
        pin_memory: for faster copies to a GPU.

    Raises:
        ValueError: `batch_size` is less than 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected at least 1")
    return EpochLoader(
        _SeededDataset(dataset),
        batch_size=batch_size,
        sampler=EpochSampler(len(dataset), seed, shuffle),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        drop_last=shuffle and len(dataset) >= batch_size,
        collate_fn=collate,
    )


class EpochLoader(DataLoader[Any]):
    """A `DataLoader` of `Batch` that knows of epochs."""

    sampler: EpochSampler

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the random numbers of the iteration that starts next."""
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        return super().__iter__()


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (index, seed) pairs: which sample, and the seed of its augmentation."""

    def __init__(self, length: int, seed: int, shuffle: bool = True) -> None:
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        state = np.random.SeedSequence((self.seed, self.epoch)).generate_state(1, np.uint64)  # mixes the two
        generator = torch.Generator().manual_seed(int(state[0]))
        order = torch.randperm(self.length, generator=generator) if self.shuffle else torch.arange(self.length)
        seeds = torch.randint(2**62, (self.length,), generator=generator)
        return zip(order.tolist(), seeds.tolist(), strict=True)


class _SeededDataset(Dataset[tuple[torch.Tensor, Target]]):
    """Draws each sample under its own seed and leaves torch's generator as it was."""

    def __init__(self, dataset: DetectionDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, Target]:
        index, seed = key
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.dataset[index]
