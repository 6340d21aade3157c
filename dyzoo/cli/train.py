"""`dyzoo train`: train a detector on a dataset folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dyzoo.cli.options import DataOption, DeviceOption, choose_device
from dyzoo.recipe import Precision, TrainConfig, TransformConfig

Number = typer.Option(metavar="N")


def chance(what: str) -> Any:
    """An option for the probability of an augmentation."""
    return typer.Option(metavar="0..1", help=f"How often images are {what} in training.")


def train(
    data: DataOption,
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="NAME", help="Architecture, see `dyzoo list`.")
    ] = TrainConfig.model,
    backbone: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Any other timm backbone.", show_default="the architecture's"),
    ] = None,
    epochs: Annotated[int, Number] = TrainConfig.epochs,
    batch_size: Annotated[int, Number] = TrainConfig.batch_size,
    lr: Annotated[
        float, typer.Option(metavar="X", help="Peak learning rate at batch size 16, scaled to yours.")
    ] = TrainConfig.lr,
    backbone_lr_factor: Annotated[
        float, typer.Option(metavar="X", help="The backbone's learning rate relative to the rest.")
    ] = TrainConfig.backbone_lr_factor,
    warmup_epochs: Annotated[float, Number] = TrainConfig.warmup_epochs,
    weight_decay: Annotated[float, typer.Option(metavar="X")] = TrainConfig.weight_decay,
    size: Annotated[
        int | None, typer.Option(metavar="PX", help="Shortest edge of images.", show_default="the architecture's")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="The run's folder.", show_default="runs/NAME")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the last whole epoch in the folder.")] = False,
    train_split: Annotated[str, typer.Option(metavar="NAME")] = TrainConfig.train_split,
    val_split: Annotated[str, typer.Option(metavar="NAME")] = TrainConfig.val_split,
    pretrained_backbone: Annotated[
        bool,
        typer.Option(
            "--pretrained-backbone/--no-pretrained-backbone", help="Start from timm's published backbone weights."
        ),
    ] = TrainConfig.pretrained_backbone,
    backbone_weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Start the backbone from this file (.safetensors, .pth) instead."),
    ] = None,
    precision: Annotated[
        Precision, typer.Option(help="Of matrix products; auto is bf16 where the hardware has it.")
    ] = TrainConfig.precision,
    clip_norm: Annotated[
        float, typer.Option(metavar="X", help="Longest gradient, as a norm over all parameters.")
    ] = TrainConfig.clip_norm,
    ema_decay: Annotated[
        float, typer.Option(metavar="X", help="Of the averaged weights; 0: no averaging.")
    ] = TrainConfig.ema_decay,
    validate_every: Annotated[
        int, typer.Option(metavar="N", help="Epochs between evaluations.")
    ] = TrainConfig.validate_every,
    seed: Annotated[int, Number] = TrainConfig.seed,
    workers: Annotated[int, typer.Option(metavar="N", help="Processes that read images.")] = TrainConfig.workers,
    device: DeviceOption = None,
    horizontal_flip: Annotated[float, chance("mirrored left to right")] = TransformConfig.horizontal_flip,
    vertical_flip: Annotated[float, chance("mirrored top to bottom")] = TransformConfig.vertical_flip,
    rotate90: Annotated[float, chance("turned by a multiple of 90 degrees")] = TransformConfig.rotate90,
    scale_range: Annotated[
        tuple[float, float], typer.Option(metavar="LEAST MOST", help="Image size in training, relative to --size.")
    ] = TransformConfig.scale_range,
    crop: Annotated[float, chance("cropped")] = TransformConfig.crop,
    colour: Annotated[
        float, typer.Option(metavar="0..1", help="Strength of changes to colours in training.")
    ] = TransformConfig.colour,
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
      dyzoo train --data DIR --backbone convnext_tiny --backbone-weights FILE
      dyzoo train --data MICROSCOPY --vertical-flip 0.5 --rotate90 0.75
    """
    from dyzoo.training import train as run_training

    try:
        transform = TransformConfig(
            horizontal_flip=horizontal_flip,
            vertical_flip=vertical_flip,
            rotate90=rotate90,
            scale_range=scale_range,
            crop=crop,
            colour=colour,
        )
        config = TrainConfig(
            data=data,
            model=model,
            backbone=backbone,
            out=out,
            train_split=train_split,
            val_split=val_split,
            epochs=epochs,
            batch_size=batch_size,
            size_px=size,
            lr=lr,
            backbone_lr_factor=backbone_lr_factor,
            weight_decay=weight_decay,
            warmup_epochs=warmup_epochs,
            ema_decay=ema_decay,
            precision=precision,
            pretrained_backbone=pretrained_backbone,
            backbone_weights=backbone_weights,
            validate_every=validate_every,
            workers=workers,
            device=str(choose_device(device)),
            seed=seed,
            resume=resume,
            transform=transform,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    evaluation = run_training(config)
    print(f"\n{evaluation.table()}\n\nthe best detector: {config.folder}/best (dyzoo predict --model {config.folder})")
