"""The command that trains: the paper's ablation. Imports what is heavy when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dyzoo.config.detector import MOST_BLOCKS


def ablation(
    data: Annotated[Path, typer.Option(metavar="DIR", help="Dataset folder, as for `dyzoo train`.")],
    further: Annotated[
        list[str] | None, typer.Argument(metavar="OPTION", help="Behind `--`: other options of `dyzoo train`.")
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", metavar="NAME", help="Architecture.")] = (
        "dyhead_atss_resnet10t"
    ),
    form: Annotated[
        Literal["pyramid", "tensor"] | None,
        typer.Option(help="Form of the blocks.", show_default="the architecture's"),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(metavar="NAME", help="A timm backbone.", show_default="the architecture's")
    ] = None,
    backbone_weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Local file that the backbone starts from.")
    ] = None,
    pretrained_backbone: Annotated[
        bool, typer.Option(help="Start from timm's published backbone weights, unless a file is given.")
    ] = True,
    epochs: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Of each run.", show_default="as `dyzoo train` chooses")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(metavar="PX", min=1, help="Shortest edge of images.", show_default="as `dyzoo train` chooses"),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Images at a time.", show_default="as `dyzoo train` chooses")
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="Runs of each row: seeds 0 to N - 1.")] = 3,
    blocks: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=MOST_BLOCKS,
            help="Blocks whose attentions are switched off.",
            show_default="the architecture's",
        ),
    ] = None,
    depths: Annotated[str, typer.Option(metavar="N,N", help="Numbers of blocks to compare.")] = "0,1,2,4,6",
    jobs: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Trainings side by side.", show_default="one on each core")
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="D", help="cpu, cuda, cuda:1.", show_default="a GPU if there is one")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the runs and of ablation.csv and .md.")
    ] = Path("ablation"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the missing runs' commands and the table so far.")
    ] = False,
) -> None:
    """Train what the paper's ablation compares, on your data, and print its tables beside the paper's.

    No blocks; blocks with none, one, two and all three of the attentions; all three in 1, 2, 4 and 6 blocks. Each with
    several seeds and the same budget, by `dyzoo train`, and judged once, after its last epoch. Called again with the
    same folder, it goes on with what is missing: complete runs stay, interrupted ones resume.

    \b
    Examples:
      dyzoo bench ablation --data DIR --epochs 20 --size 256 --seeds 5
      dyzoo bench ablation --data DIR --backbone resnet18 --backbone-weights FILE
      dyzoo bench ablation --data DIR --depths 2 -- --lr 5e-4 --vertical-flip 0.5
    """
    from .ablation.plan import Budget
    from .ablation.session import run

    budget = Budget(
        data=data,
        model=model,
        form=form,
        backbone=backbone,
        backbone_weights=backbone_weights,
        pretrained_backbone=pretrained_backbone,
        epochs=epochs,
        batch_size=batch_size,
        size_px=size,
        device=device,
        further=tuple(further or ()),
    )
    if code := run(budget, out, seeds, blocks, _depths(depths), jobs, dry_run):
        raise typer.Exit(code)


def _depths(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = [-1]
    if not all(0 <= depth <= MOST_BLOCKS for depth in found):
        raise typer.BadParameter(
            f"{text!r} is no list of numbers from 0 to {MOST_BLOCKS}, as in 0,1,2", param_hint="--depths"
        )
    return found
