"""`dyzoo train`: train a detector on a dataset folder."""

from __future__ import annotations

import typer

from dyzoo.cli.options import choose_device
from dyzoo.cli.settings import takes_settings
from dyzoo.cli.terminal import say, show
from dyzoo.config.training import TrainConfig
from dyzoo.environment import index_on_machine
from dyzoo.errors import DyzooError


@takes_settings(TrainConfig)
def train(config: TrainConfig) -> None:
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

    if config.device is not None:
        choose_device(config.device)
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
