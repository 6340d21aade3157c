"""The configurations that are compared, and the `dyzoo train` command of each run."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dyzoo.config.training import ATTENTIONS
from dyzoo.zoo.names import model_config

from . import paper

NEVER_BEFORE_THE_END = 10**6
"""Epochs between evaluations: only the last one is evaluated, so that no epoch is chosen by what it is judged on."""


@dataclass(frozen=True)
class Configuration:
    """Number of blocks, and the attentions in them."""

    blocks: int
    scale: bool = True
    spatial: bool = True
    task: bool = True

    @property
    def attentions(self) -> tuple[str, ...]:
        """Names of those that are on."""
        return tuple(name for name in ATTENTIONS if getattr(self, name))

    @property
    def name(self) -> str:
        """Name of its folder."""
        whole = len(self.attentions) == len(ATTENTIONS)
        return "-".join([f"{self.blocks}-blocks", *(() if whole else self.attentions or ("none",))])


@dataclass(frozen=True)
class Budget:
    """The settings that all runs share; None is left to `dyzoo train`.

    Attributes:
        data: dataset folder.
        model, form, backbone, backbone_weights, pretrained_backbone, epochs, batch_size, size_px, device: as in
            `TrainConfig`.
        further: other options of `dyzoo train`, word by word.
    """

    data: Path
    model: str
    form: str | None = None
    backbone: str | None = None
    backbone_weights: Path | None = None
    pretrained_backbone: bool = True
    epochs: int | None = None
    batch_size: int | None = None
    size_px: int | None = None
    device: str | None = None
    further: tuple[str, ...] = ()

    @property
    def blocks(self) -> int:
        """Blocks of the architecture.

        Raises:
            UnknownModelError: there is no such.
        """
        return model_config(self.model).dyhead.num_blocks

    def options(self) -> list[str]:
        """Options of `dyzoo train`."""
        values = {
            "--data": self.data,
            "--model": self.model,
            "--form": self.form,
            "--backbone": self.backbone,
            "--backbone-weights": self.backbone_weights,
            "--epochs": self.epochs,
            "--batch-size": self.batch_size,
            "--size": self.size_px,
            "--device": self.device,
        }
        options = [f"{name}={value}" for name, value in values.items() if value is not None]
        return [*options, *([] if self.pretrained_backbone else ["--no-pretrained-backbone"]), *self.further]


@dataclass(frozen=True)
class Run:
    """One configuration with one seed.

    Attributes:
        folder: where `dyzoo train` writes.
    """

    configuration: Configuration
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """Configuration and seed in words."""
        return f"{self.configuration.name}, seed {self.seed}"

    @property
    def is_begun(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return any((self.folder / "checkpoints").glob("step_*.pt"))

    def command(self, budget: Budget) -> list[str]:
        """The command that trains it, or goes on where it was interrupted."""
        own = {
            "--blocks": self.configuration.blocks,
            "--attentions": ",".join(self.configuration.attentions) or "none",
            "--seed": self.seed,
            "--out": self.folder,
            "--validate-every": NEVER_BEFORE_THE_END,
            "--average-last": 0,
            "--workers": 0,  # the process has a core to itself
            "--keep": 1,
        }
        options = [*budget.options(), *(f"{name}={value}" for name, value in own.items())]
        return [sys.executable, "-m", "dyzoo", "train", *options, *(["--resume"] if self.is_begun else [])]

    def shown(self, budget: Budget) -> str:
        """The command as a user types it."""
        return shlex.join(["dyzoo", *self.command(budget)[3:]])


def configurations(blocks: int, depths: Iterable[int]) -> list[Configuration]:
    """Those of both tables, each once: no blocks, every choice of attentions, then all three at each depth."""
    choices = [Configuration(blocks, *switches) for switches in paper.ATTENTIONS]
    return list(dict.fromkeys([Configuration(0), *choices, *(Configuration(depth) for depth in sorted(depths))]))


def runs(found: Sequence[Configuration], seeds: int, out: Path) -> list[Run]:
    """All runs, seed by seed: whenever it is stopped, the table has whole columns."""
    return [
        Run(configuration, seed, out / configuration.name / f"seed-{seed}")
        for seed in range(seeds)
        for configuration in found
    ]
