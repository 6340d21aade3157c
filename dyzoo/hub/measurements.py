"""The part of a model card that says what its weights reach, and the same for the Hub's model index.

Each block has the command that gives its numbers again. What others report stands beside them and is not in the index.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from huggingface_hub import EvalResult

from dyzoo.hub.markdown import one_line, plain, shell_argument
from dyzoo.text import signed

Metrics = Mapping[str, float | None]

HEADING = "## What it reaches"

_METRICS = {  # as in `dyzoo.evaluation.Evaluation.metrics` -> the model index's type and name
    "AP": ("map", "AP (IoU 0.50:0.95)"),
    "AP50": ("map_50", "AP50 (IoU 0.50)"),
    "AP75": ("map_75", "AP75 (IoU 0.75)"),
    "APs": ("map_small", "AP of small objects"),
    "APm": ("map_medium", "AP of medium objects"),
    "APl": ("map_large", "AP of large objects"),
    "AR100": ("mar_100", "AR with 100 detections per image"),
}
DIFFERS_WITH_THE_IMAGES = "a difference says something on the same images only"

_COLUMNS = ("AP", "AP50", "AP75")
_BLOCK = re.compile(r"(?m)^(?=On the .* split of )")
_FIRST_LINE = re.compile(r"(?m)^(On the .*, \d+ images, COCO metrics by [\w-]+):$")
_SECTION = re.compile(rf"(?ms)^{HEADING}\n\n(.*?)(?=^## |\Z)")


class Evaluated(Protocol):
    """Results that a measurement is made of, such as a `dyzoo.evaluation.Evaluation`."""

    @property
    def metrics(self) -> Metrics: ...
    @property
    def per_class(self) -> Mapping[str, Metrics]: ...
    @property
    def num_images(self) -> int: ...
    @property
    def settings(self) -> Mapping[str, Any]: ...
    @property
    def reported(self) -> Mapping[str, float]: ...
    @property
    def reported_by(self) -> str: ...


@dataclass(frozen=True)
class Measurement:
    """Numbers measured with the weights that the card is for.

    Attributes:
        dataset: its name, or the name of its folder.
        split: which part of it.
        metrics, per_class, num_images: as in `dyzoo.evaluation.Evaluation`.
        note: a remark about the numbers.
        settings, reported, reported_by: as in `dyzoo.evaluation.Evaluation`.
        made: when, and with which versions.
    """

    dataset: str
    split: str
    metrics: Metrics
    per_class: Mapping[str, Metrics]
    num_images: int
    note: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    reported: Mapping[str, float] = field(default_factory=dict)
    reported_by: str = ""
    made: str = ""

    @classmethod
    def of(cls, evaluation: Evaluated, dataset: str, split: str = "val", note: str = "", made: str = "") -> Measurement:
        """The measurement that `dyzoo.evaluate` made on a dataset of that name."""
        return cls(
            dataset,
            split,
            evaluation.metrics,
            evaluation.per_class,
            evaluation.num_images,
            note,
            evaluation.settings,
            evaluation.reported,
            evaluation.reported_by,
            made,
        )


def index_entries(measured: Measurement) -> list[EvalResult]:
    """The measured metrics as the Hub's model index has them."""
    return [
        EvalResult(
            task_type="object-detection",
            dataset_type=re.sub(r"[^\w.-]+", "-", measured.dataset).strip("-").lower() or "unnamed",
            dataset_name=one_line(measured.dataset),
            dataset_split=one_line(measured.split),
            metric_type=kind,
            metric_name=title,
            metric_value=round(value, 4),
        )
        for metric, (kind, title) in _METRICS.items()
        if (value := measured.metrics.get(metric)) is not None and math.isfinite(value)
    ]


def section(name: str, measurements: Sequence[Measurement]) -> str:
    """The section of a card that has these measurements, or says that there are none."""
    if not measurements:
        return (
            f"{HEADING}\n\nNothing has been measured with these weights yet. "
            f"`dyzoo evaluate --data DIR --model {shell_argument(name)}` measures them on your data."
        )
    return "\n\n".join([HEADING, *(_block(name, measured) for measured in measurements)])


def with_measurement(body: str, name: str, measured: Measurement) -> str:
    """The text of a card with one more measurement, in place of an older one on the same part of the same data."""
    found = _SECTION.search(body)
    blocks = _BLOCK.split(found[1])[1:] if found else []
    kept = [block.strip() for block in blocks if not block.startswith(_beginning(measured))]
    text = "\n\n".join([HEADING, *kept, _block(name, measured)])
    if found is None:
        return f"{body.rstrip()}\n\n{text}\n"
    rest = body[found.end() :]
    return body[: found.start()] + text + ("\n\n" if rest else "\n") + rest


def with_rounded_weights(body: str, dtype: str) -> str:
    """The text of a card whose weights were rounded to `dtype` since they were measured."""
    return _FIRST_LINE.sub(rf"\1, before the weights were rounded to {dtype}:", body)


def _block(name: str, measured: Measurement) -> str:
    rows = ["| class | boxes | AP | AP50 | AP75 |", "|---|---:|---:|---:|---:|"]
    per_class = {plain(label): values for label, values in measured.per_class.items()}
    for label, values in {**per_class, "**all**": measured.metrics}.items():
        boxes = values.get("boxes")
        rows.append(_row(label, "" if boxes is None else f"{boxes:g}", *(_number(values, each) for each in _COLUMNS)))
    others = (f"{metric} {_number(measured.metrics, metric)}" for metric in measured.metrics if metric not in _COLUMNS)
    remarks = [", ".join(others), measured.note]
    if measured.reported:
        by, apart = plain(measured.reported_by), differences(measured.metrics, measured.reported)
        rows.append(_row(f"reported: {by}", "", *(_number(measured.reported, each) for each in _COLUMNS)))
        rows.append(_row("difference", "", *(signed(apart.get(each)) for each in _COLUMNS)))
        remarks.append(f"Of what is reported, {DIFFERS_WITH_THE_IMAGES}")
    if measured.made:
        remarks.append(f"Measured on {measured.made}")
    scorer = measured.settings.get("scorer", "pycocotools")
    table, below = "\n".join(rows), _sentences(remarks)
    dataset, split = (shell_argument(text) for text in (measured.dataset, measured.split))
    return f"""\
{_beginning(measured)}{measured.num_images} images, COCO metrics by {scorer}:

{table}

{below}

```sh
dyzoo evaluate --data {dataset} --split {split} --model {shell_argument(name)}{_options(measured.settings)}
```"""


def _beginning(measured: Measurement) -> str:
    return f"On the {plain(measured.split)} split of {plain(measured.dataset)}, "


def _options(settings: Mapping[str, Any]) -> str:
    """Options that give the same numbers, where they are not the defaults; the batch size does not matter."""
    size, scorer = settings.get("size"), settings.get("scorer", "pycocotools")
    options = [f"--size {size}"] if size is not None else []
    options += [f"--flip {flip}" for flip in settings.get("flips", ())]
    options += [f"--scorer {scorer}"] if scorer != "pycocotools" else []
    return "".join(f" {option}" for option in options)


def differences(measured: Metrics, reported: Mapping[str, float]) -> dict[str, float | None]:
    """By how much the measured metrics exceed the reported ones; None where nothing was measured."""
    return {name: None if (value := measured.get(name)) is None else value - other for name, other in reported.items()}


def _sentences(remarks: Sequence[str]) -> str:
    said = [remark.rstrip(".") for remark in remarks if remark]
    return ". ".join(said) + ("." if len(said) > 1 else "")


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _number(values: Metrics, name: str) -> str:
    value = values.get(name)
    return "-" if value is None else f"{value:.3f}"
