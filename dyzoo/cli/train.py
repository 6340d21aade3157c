"""`dyzoo train`: train a detector on a dataset folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dyzoo.cli.options import DataOption, DeviceOption, choose_device
from dyzoo.cli.terminal import say, show
from dyzoo.config.training import Precision, TrainConfig, TransformConfig
from dyzoo.environment import index_on_machine
from dyzoo.errors import DyzooError

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
    epochs: Annotated[
        int | None,
        typer.Option(metavar="N", help="Passes over the data.", show_default="12 to 300, fewer for more images"),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Images at a time, in each process.", show_default="by images and free memory, 16 in all"
        ),
    ] = None,
    accumulate: Annotated[
        int, typer.Option(metavar="N", help="Batches that a step learns from.")
    ] = TrainConfig.accumulate,
    lr: Annotated[
        float, typer.Option(metavar="X", help="Peak learning rate at 16 images in a step, scaled to yours.")
    ] = TrainConfig.lr,
    backbone_lr_factor: Annotated[
        float, typer.Option(metavar="X", help="The backbone's learning rate relative to the rest.")
    ] = TrainConfig.backbone_lr_factor,
    layer_decay: Annotated[
        float, typer.Option(metavar="X", help="Each backbone stage learns this much slower than the next.")
    ] = TrainConfig.layer_decay,
    freeze: Annotated[
        str, typer.Option(metavar="N|backbone", help="First backbone stages that do not learn.")
    ] = TrainConfig.freeze,
    warmup_epochs: Annotated[float, Number] = TrainConfig.warmup_epochs,
    weight_decay: Annotated[float, typer.Option(metavar="X")] = TrainConfig.weight_decay,
    size: Annotated[
        int | None,
        typer.Option(
            metavar="PX", help="Shortest edge of images.", show_default="the architecture's, less for small images"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="The run's folder.", show_default="runs/NAME")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's newest checkpoint.")] = False,
    save_every: Annotated[
        str, typer.Option(metavar="Xm|N|epoch", help="Checkpoints: after X minutes, N steps, or epochs only.")
    ] = TrainConfig.save_every,
    keep: Annotated[int, typer.Option(metavar="N", help="Newest checkpoints that are kept.")] = TrainConfig.keep,
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
    weights: Annotated[
        str | None,
        typer.Option(metavar="M", help="Start from this trained detector: a checkpoint's name or a folder."),
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
    average_last: Annotated[
        int, typer.Option(metavar="N", help="Try the mean of the weights after the last N epochs, too.")
    ] = TrainConfig.average_last,
    validate_every: Annotated[
        int, typer.Option(metavar="N", help="Epochs between evaluations.")
    ] = TrainConfig.validate_every,
    patience: Annotated[
        int | None, typer.Option(metavar="N", help="Stop after N evaluations without a better AP.")
    ] = None,
    sync_bn: Annotated[
        bool, typer.Option("--sync-bn", help="Batch norms over the images of all GPUs.")
    ] = TrainConfig.sync_bn,
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
    mosaic: Annotated[float, chance("put together from parts of four")] = TransformConfig.mosaic,
    copy_paste: Annotated[float, chance("given objects of another image")] = TransformConfig.copy_paste,
) -> None:
    """Train a detector on your own images.

    The run's folder receives best/ (the epoch with the highest validation AP), checkpoints/ (to resume from),
    metrics.csv, curves.png, tensorboard/, evaluation/ and report.html, which shows where the detector fails.
    Ctrl-C (exit code 130) and SIGTERM (143) finish the step and save; --resume goes on with the next batch as if
    nothing had happened, after a crash from --save-every's last.
    torchrun or accelerate launch train on several GPUs.

    \b
    Examples:
      dyzoo train --data DIR
      dyzoo train --data DIR --model dyhead_atss_resnet50 --out runs/mine
      dyzoo train --data DIR --model dyhead_atss_resnet50 --out runs/mine --resume
      torchrun --nproc-per-node 2 -m dyzoo train --data DIR
      dyzoo train --data DIR --backbone convnext_tiny --backbone-weights FILE
      dyzoo train --data DIR --weights dyhead_atss_resnet10t.bccd --freeze 2
      dyzoo train --data MICROSCOPY --vertical-flip 0.5 --rotate90 0.75
    """
    from dyzoo.distributed import MAIN, leave, process_index
    from dyzoo.training import train as run_training

    if device is not None:
        choose_device(device)
    try:
        transform = TransformConfig(
            horizontal_flip=horizontal_flip,
            vertical_flip=vertical_flip,
            rotate90=rotate90,
            scale_range=scale_range,
            crop=crop,
            colour=colour,
            mosaic=mosaic,
            copy_paste=copy_paste,
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
            accumulate=accumulate,
            sync_bn=sync_bn,
            size_px=size,
            lr=lr,
            backbone_lr_factor=backbone_lr_factor,
            weight_decay=weight_decay,
            layer_decay=layer_decay,
            freeze=freeze,
            warmup_epochs=warmup_epochs,
            ema_decay=ema_decay,
            average_last=average_last,
            precision=precision,
            pretrained_backbone=pretrained_backbone,
            backbone_weights=backbone_weights,
            weights=weights,
            patience=patience,
            validate_every=validate_every,
            workers=workers,
            device=device,
            seed=seed,
            save_every=save_every,
            keep=keep,
            resume=resume,
            transform=transform,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    try:
        evaluation = run_training(config)
    except (DyzooError, OSError):
        if index_on_machine() == 0:
            raise
        raise typer.Exit(1) from None  # one process of a machine says it for all
    is_main = process_index() == MAIN
    leave()
    if is_main:
        show(f"\n{evaluation.table()}\n")
        say(f"the best detector: {config.folder}/best (dyzoo predict --model {config.folder})")
        say(f"what it does well and where it fails: {config.folder}/report.html")
