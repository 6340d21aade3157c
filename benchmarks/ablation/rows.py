"""The outcome of a run as a row, and the file of all rows."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from dyzoo.config.training import ATTENTIONS
from dyzoo.files import read_regular, replacing

from .plan import Configuration

CSV_NAME = "ablation.csv"
MOST_BYTES = 1 << 26
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


@dataclass(frozen=True)
class Row:
    """One run, complete in itself.

    Attributes:
        ap, ap50, ap75, aps, apm, apl: on the validation split, in percent; None without ground truth for it.
        parameters: numbers in the detector's parameters, those of frozen stages among them.
        data: the first digits of the SHA-256 of the two splits, as `run.json` has it.
        train_images, val_images: number of pictures.
    """

    configuration: str
    blocks: int
    scale: bool
    spatial: bool
    task: bool
    seed: int
    ap: float | None
    ap50: float | None
    ap75: float | None
    aps: float | None
    apm: float | None
    apl: float | None
    parameters: int
    model: str
    form: str
    backbone: str
    backbone_start: str
    epochs: int
    batch_size: int
    size_px: int
    data: str
    train_images: int
    val_images: int
    device: str
    dyzoo: str
    torch: str


def complete(out: Path) -> list[Row]:
    """Rows of all runs of an ablation that are complete."""
    found = map(read, sorted(out.glob("*-blocks*/seed-*/")))
    return sorted((row for row in found if row is not None), key=lambda row: (row.configuration, row.seed))


def read(folder: Path) -> Row | None:
    """The row of a run that is complete; None of one that is not, or whose files are damaged."""
    try:
        metrics = _json(folder / "evaluation" / "metrics.json")
        train, record = _json(folder / "train.json"), _json(folder / "run.json")
        config = _json(folder / "best" / "config.json")
        dyhead = config["dyhead"]
        own = Configuration(int(dyhead["num_blocks"]), *(bool(dyhead[name]) for name in ATTENTIONS))
        values = {name.lower(): metrics["metrics"][name] for name in METRICS}
        splits = [record["data"][train[name]] for name in ("train_split", "val_split")]
        return Row(
            configuration=own.name,
            blocks=own.blocks,
            scale=own.scale,
            spatial=own.spatial,
            task=own.task,
            seed=int(train["seed"]),
            **{name: None if value is None else round(100 * float(value), 3) for name, value in values.items()},
            parameters=int(metrics["cost"]["parameters"]),
            model=str(config["architecture"]),
            form=str(dyhead["form"]),
            backbone=str(config["backbone"]["name"]),
            backbone_start=_start_of(train),
            epochs=int(train["epochs"]),
            batch_size=int(train["batch_size"]),
            size_px=int(train["size_px"]),
            data="+".join(split["sha256"][:8] for split in splits),
            train_images=int(splits[0]["images"]),
            val_images=int(splits[1]["images"]),
            device=str(record["device"]),
            dyzoo=str(record["versions"]["dyzoo"]),
            torch=str(record["versions"]["torch"]),
        )
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def write(rows: Iterable[Row], path: Path) -> None:
    """Write the file anew."""
    with replacing(path) as aside, aside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Row)])
        writer.writerows(["" if value is None else value for value in astuple(row)] for row in rows)


def _start_of(train: dict[str, Any]) -> str:
    """The weights that the backbone began with, in a word."""
    if train["backbone_weights"]:
        return Path(train["backbone_weights"]).name
    return "pretrained" if train["pretrained_backbone"] else "random"


def _json(path: Path) -> Any:
    return json.loads(read_regular(path, MOST_BYTES))
