"""`dyzoo evaluate`: COCO metrics of a detector on a dataset folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dyzoo.cli.flips import FlipOption, parse_flips
from dyzoo.cli.options import (
    DataOption,
    DeviceOption,
    ModelOption,
    SizeOption,
    load_detector,
    make_folder,
    note,
    parse_size,
    write_json,
)


def evaluate(
    data: DataOption,
    model: ModelOption = None,
    split: Annotated[str, typer.Option("--split", metavar="NAME", help="Which part of the dataset.")] = "val",
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the report.")] = Path(
        "evaluation"
    ),
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="The metrics as JSON, here as well.")
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Images at a time, padded to the largest.")] = 1,
    scorer: Annotated[
        Literal["pycocotools", "faster-coco-eval"],
        typer.Option("--scorer", help="What computes the metrics: the same numbers, the second one sooner."),
    ] = "pycocotools",
    device: DeviceOption = None,
    size: SizeOption = None,
    flip: FlipOption = None,
) -> None:
    """Measure a detector on a dataset.

    Prints COCO's AP and AR and the AP of each class. The report is metrics.json, pr_curve.png (precision over recall)
    and detections.json (a COCO results file).

    \b
    Examples:
      dyzoo evaluate --data DIR
      dyzoo evaluate --data DIR --model runs/mine --split test --out report
    """
    from dyzoo.data import open_dataset
    from dyzoo.evaluation import evaluate as run_evaluation

    size_px, flips = parse_size(size), parse_flips(flip)
    dataset = open_dataset(data, split=split)
    make_folder(out)
    for line in dataset.notes:
        note(line)
    detector = load_detector(model, device)
    evaluation = run_evaluation(detector, dataset, batch_size=batch_size, size=size_px, scorer=scorer, flips=flips)
    for line in evaluation.notes:
        note(line)
    evaluation.save(out)
    if json_path is not None:
        write_json(json_path, evaluation.to_dict())
    print(f"{evaluation.table()}\n\n{evaluation.num_images} images; report in {out}")
