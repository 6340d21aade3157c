"""`dyzoo evaluate`: COCO metrics of a detector on a dataset folder, alone or beside another's."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dyzoo.cli.flips import FlipOption, parse_flips
from dyzoo.cli.options import (
    DataOption,
    DeviceOption,
    ModelOption,
    SizeOption,
    load_detector,
    make_folder,
    optimize_option,
    optimized,
    parse_size,
    write_json,
)
from dyzoo.cli.terminal import note, say, show

if TYPE_CHECKING:
    from dyzoo.data import DetectionDataset
    from dyzoo.evaluation import Evaluation

AGAINST_NAME, COMPARISON_NAME = "against", "comparison.json"  # in the folder of the report


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
    card: Annotated[
        Path | None, typer.Option("--card", metavar="FILE", help="A model card with the metrics, to be this file.")
    ] = None,
    against: Annotated[
        str | None, typer.Option("--against", metavar="M", help="Another detector to compare with, as for --model.")
    ] = None,
    draws: Annotated[
        int,
        typer.Option("--draws", metavar="N", min=0, help="Bootstrap draws for the intervals of --against; 0: none."),
    ] = 1000,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Images of one size at a time.")] = 1,
    scorer: Annotated[
        Literal["pycocotools", "faster-coco-eval"],
        typer.Option("--scorer", help="Library for the metrics: the same numbers, the second one sooner."),
    ] = "pycocotools",
    device: DeviceOption = None,
    size: SizeOption = None,
    flip: FlipOption = None,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"] | None,
        typer.Option(
            "--precision",
            help="What --model computes in; --against stays as its weights are, so that the same detector there shows "
            "what less precision costs.",
            show_default="as its weights are",
        ),
    ] = None,
    optimize: Annotated[bool, optimize_option("no-optimize")] = False,
) -> None:
    """Measure a detector on a dataset.

    Prints COCO's AP and AR, the AP of each class, and time and memory. The folder receives report.html (weak classes,
    confusion matrix, worst images, a score threshold to use), thresholds.json (one for each class, for dyzoo predict
    --threshold), metrics.json, pr_curve.png (precision over recall) and detections.json (a COCO results file). With
    --against both detectors are measured, and comparison.json has the differences, how sure they are, and the images
    that changed the most.

    What a checkpoint's publisher reports stands beside what was measured. --card writes the detector's model card, with
    the metrics, the data set's name and the command. The README.md beside the weights keeps its other metrics, and
    `dyzoo push` takes it along.

    \b
    Examples:
      dyzoo evaluate --data DIR
      dyzoo evaluate --data DIR --model runs/mine --split test --out report
      dyzoo evaluate --data DIR --model runs/mine --flip horizontal
      dyzoo evaluate --data DIR --model runs/mine --against runs/other
      dyzoo evaluate --data DIR --model folder --card folder/README.md
      dyzoo evaluate --data DIR --model runs/mine --precision bf16 \\
        --against runs/mine
    """
    from dyzoo.cli.cards import card_name, write_card
    from dyzoo.data import open_dataset
    from dyzoo.evaluation import compare
    from dyzoo.evaluation.report import REPORT_NAME, write_report
    from dyzoo.evaluation.scorers import load_scorer
    from dyzoo.zoo.names import DEFAULT_MODEL

    options: dict[str, Any] = {
        "batch_size": batch_size,
        "size": parse_size(size),
        "flips": parse_flips(flip),
        "scorer": scorer,
    }
    model = model or DEFAULT_MODEL
    name, on = _called(model), f"on {data.resolve().name}, {split}"
    carded = None if card is None else card_name(card, model, name)
    load_scorer(scorer)
    dataset = open_dataset(data, split=split)
    for line in dataset.notes:
        note(line)
    if against is not None:
        load_detector(against, "cpu")  # a mistyped name should not cost an evaluation
    evaluation, card_text = _measure(model, device, dataset, out, {**options, "precision": precision}, optimize)
    if card is not None and carded is not None:
        write_card(card, card_text, carded, evaluation, data, split)
    if json_path is not None:
        write_json(json_path, evaluation.to_dict())
    if against is None:
        for line in evaluation.notes:
            note(line)
        _print(evaluation)
        comparison = None
    else:
        other, _ = _measure(against, device, dataset, out / AGAINST_NAME, options)
        first = f"{name}{' optimised' if optimize else ''}{f' in {precision}' if precision else ''}"
        comparison = compare(evaluation, other, dataset, draws, names=(first, _called(against)))
        for line in comparison.notes:
            note(line)
        comparison.save(out / COMPARISON_NAME)
        show(comparison.table())
        for measured in (evaluation, other):
            if measured.reported:
                show(f"\n{measured.reported_table()}")
        write_report(out / AGAINST_NAME / REPORT_NAME, dataset, other, title=f"{_called(against)} {on}")
    write_report(out / REPORT_NAME, dataset, evaluation, title=f"{name} {on}", comparison=comparison)
    say("")
    say(f"{evaluation.num_images} images; what was found and missed: {out / REPORT_NAME}")


def _called(model: str) -> str:
    """The name of a model in a report: the user's, without the folders above it on this machine."""
    path = Path(model)
    return path.name if path.is_absolute() else model


def _measure(
    model: str,
    device: str | None,
    dataset: DetectionDataset,
    out: Path,
    options: dict[str, Any],
    optimize: bool = False,
) -> tuple[Evaluation, str]:
    """The evaluation, saved, and the detector's card without it."""
    from dyzoo.cli.cards import with_reported
    from dyzoo.evaluation import evaluate as run_evaluation

    gc.collect()  # the detector before this one, whose memory would be counted with this one's
    detector = load_detector(model, device, dataset.labels)
    card = detector.model_card(_called(model))
    detector = optimized(detector, optimize)
    make_folder(out)
    evaluation = with_reported(run_evaluation(detector, dataset, **options), model)
    evaluation.save(out)
    return evaluation, card


def _print(evaluation: Evaluation) -> None:
    from dyzoo.evaluation.display import facts_table

    show(evaluation.table())
    if evaluation.reported:
        show(f"\n{evaluation.reported_table()}")
    if evaluation.cost is not None:
        show(f"\n{facts_table(evaluation.cost.facts())}")
