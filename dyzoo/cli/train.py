"""`dyzoo train`: train a detector on a dataset folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dyzoo.cli.options import DataOption, DeviceOption, choose_device

# The defaults shown are those of TrainConfig, which is not imported until a command runs: it brings torch.


def train(
    data: DataOption,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME",
            help="Architecture, see `dyzoo list`.",
            show_default="dyhead_atss_resnet10t",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(metavar="N", show_default="36")] = None,
    batch_size: Annotated[int | None, typer.Option(metavar="N", show_default="8")] = None,
    lr: Annotated[
        float | None,
        typer.Option(metavar="X", help="Peak learning rate at batch size 16, scaled to yours.", show_default="0.001"),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(metavar="PX", help="Shortest edge of images.", show_default="the architecture's"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="The run's folder.", show_default="runs/NAME")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the last whole epoch in the folder.")] = False,
    train_split: Annotated[str | None, typer.Option(metavar="NAME", show_default="train")] = None,
    val_split: Annotated[str | None, typer.Option(metavar="NAME", show_default="val")] = None,
    pretrained_backbone: Annotated[
        bool | None,
        typer.Option(
            "--pretrained-backbone/--no-pretrained-backbone",
            help="Start from timm's published backbone weights.",
            show_default="pretrained-backbone",
        ),
    ] = None,
    precision: Annotated[
        Literal["auto", "bf16", "fp16", "fp32"] | None,
        typer.Option(help="Of matrix products; auto is bf16 where the hardware has it.", show_default="auto"),
    ] = None,
    ema_decay: Annotated[
        float | None, typer.Option(metavar="X", help="Of the averaged weights; 0: no averaging.", show_default="0.999")
    ] = None,
    validate_every: Annotated[
        int | None, typer.Option(metavar="N", help="Epochs between evaluations.", show_default="1")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", show_default="0")] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Processes that read images.", show_default="2")
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Train a detector on your own images.

    The run's folder receives best/ (the epoch with the highest validation AP), last.pt (to resume from), metrics.csv,
    curves.png, tensorboard/ and evaluation/. Stop it with Ctrl-C at any time: --resume goes on after the last whole
    epoch.

    \b
    Examples:
      dyzoo train --data DIR
      dyzoo train --data DIR --model dyhead_atss_resnet50 --out runs/mine
      dyzoo train --data DIR --model dyhead_atss_resnet50 --out runs/mine --resume
    """
    from dyzoo.training import TrainConfig
    from dyzoo.training import train as run_training

    given = {
        "model": model,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "size_px": size,
        "out": out,
        "train_split": train_split,
        "val_split": val_split,
        "pretrained_backbone": pretrained_backbone,
        "precision": precision,
        "ema_decay": ema_decay,
        "validate_every": validate_every,
        "seed": seed,
        "workers": workers,
    }
    try:
        config = TrainConfig(
            data=data,
            resume=resume,
            device=str(choose_device(device)),
            **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    evaluation = run_training(config)
    print(
        f"\n{evaluation.table()}\n\nthe best detector is in {config.folder}/best: dyzoo predict --model {config.folder}"
    )
