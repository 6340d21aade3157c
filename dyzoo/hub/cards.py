"""Model cards: the README.md beside a detector's weights, with the metadata that the Hugging Face Hub reads.

Only measured numbers go into a card, each with the command that gives it again.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from yaml import YAMLError

from dyzoo._version import __version__
from dyzoo.config import DetectorConfig
from dyzoo.errors import CheckpointError, DyzooWarning

CARD_NAME = "README.md"

Metrics = Mapping[str, float | None]

_METRICS = {  # as in `dyzoo.evaluation.Evaluation.metrics` -> the model index's type and name
    "AP": ("map", "AP (IoU 0.50:0.95)"),
    "AP50": ("map_50", "AP50 (IoU 0.50)"),
    "AP75": ("map_75", "AP75 (IoU 0.75)"),
    "APs": ("map_small", "AP of small objects"),
    "APm": ("map_medium", "AP of medium objects"),
    "APl": ("map_large", "AP of large objects"),
    "AR100": ("mar_100", "AR with 100 detections per image"),
}
_MARK = re.compile(r"<!-- dyzoo [^ ]* wrote this card \(([0-9a-f]{12})\); once edited, it is left alone -->\n")
_LABELS_SHOWN = 100
_CARD_AT_MOST = 1_000_000  # characters
_TERMS_READ = 100


class CardKeptWarning(DyzooWarning):
    """A repository's card was left as somebody wrote it."""


class Evaluated(Protocol):
    """Results that a measurement is made of, such as a `dyzoo.evaluation.Evaluation`."""

    @property
    def metrics(self) -> Metrics: ...
    @property
    def per_class(self) -> Mapping[str, Metrics]: ...
    @property
    def num_images(self) -> int: ...


@dataclass(frozen=True)
class Measurement:
    """Numbers measured with the weights that the card is for.

    Attributes:
        dataset: its name, or the name of its folder.
        split: which part of it.
        metrics, per_class, num_images: as in `dyzoo.evaluation.Evaluation`.
        note: a remark about the numbers.
    """

    dataset: str
    split: str
    metrics: Metrics
    per_class: Mapping[str, Metrics]
    num_images: int
    note: str = ""

    @classmethod
    def of(cls, evaluation: Evaluated, dataset: str, split: str = "val", note: str = "") -> Measurement:
        """The measurement that `dyzoo.evaluate` made on a dataset of that name."""
        return cls(dataset, split, evaluation.metrics, evaluation.per_class, evaluation.num_images, note)


@dataclass(frozen=True)
class CardDetails:
    """Facts for a card that the configuration does not hold.

    Attributes:
        measurements: metrics of these weights; without any the card says that there are none.
        license: the Hub's short name, such as "mit" or "apache-2.0".
        datasets: ids on the Hub of what it was trained on.
        base_model: id on the Hub of the weights that training started from.
        training: a paragraph on how it was made.
    """

    measurements: Sequence[Measurement] = ()
    license: str | None = None
    datasets: Sequence[str] = ()
    base_model: str | None = None
    training: str = ""


def write_card(config: DetectorConfig, name: str, parameters: int, details: CardDetails | None = None) -> str:
    """The text of a README.md.

    Args:
        config: the detector's configuration.
        name: `org/name` or a folder, as `Detector.from_pretrained` takes it.
        parameters: their number.
        details: further facts.
    """
    details = details or CardDetails()
    body = "\n\n".join(
        filter(
            None,
            [
                f"# {_title(name)}",
                _introduction(config),
                _usage(name),
                _table(config, parameters),
                _labels(config.labels),
                _measured(name, details.measurements),
                f"## Training\n\n{details.training}" if details.training else "",
            ],
        )
    )
    return _mark(f"---\n{_metadata(config, name, details)}\n---\n\n{body}\n")


def adapt_card(text: str, name: str, details: CardDetails | None = None) -> str:
    """A card that `write_card` wrote, for the same detector under another name; licence and datasets may be new.

    Raises:
        CheckpointError: its metadata is damaged.
    """
    details = details or CardDetails()
    card, own = _read_card(_MARK.sub("", text, count=1)), terms_of(text)
    if card is None:
        raise CheckpointError(f"the metadata of the {CARD_NAME} is damaged, expected YAML: mend it or remove the file")
    data: Any = card.data
    data.license = _line(details.license or "") or own.license
    data.datasets = [_line(dataset) for dataset in details.datasets] or own.datasets or None
    if data.get("eval_results"):
        data.model_name = _line(name).rsplit("/", 1)[-1]
    content = str(card)
    if found := re.search(r'\.from_pretrained\(("(?:[^"\\]|\\.)*")\)', content):
        old = json.loads(found[1])
        for before, after in (
            (found[0], f".from_pretrained({json.dumps(name, ensure_ascii=False)})"),
            (f"--model {_argument(old)}", f"--model {_argument(name)}"),
            (f"\n# {_title(old)}\n", f"\n# {_title(name)}\n"),
        ):
            content = content.replace(before, after)
    return _mark(content)


def terms_of(card: str) -> CardDetails:
    """Licence and data sets that a card's metadata names; none where it cannot be read: anybody may have written it."""
    read = _read_card(card)
    if read is None:
        return CardDetails()
    license, datasets = (read.data.get(key) for key in ("license", "datasets"))
    named = datasets if isinstance(datasets, list) else [datasets]
    return CardDetails(
        license=license if isinstance(license, str) else None,
        datasets=[dataset for dataset in named[:_TERMS_READ] if isinstance(dataset, str)],
    )


def _read_card(text: str) -> ModelCard | None:
    try:
        return ModelCard(text, ignore_metadata_errors=True) if len(text) <= _CARD_AT_MOST else None
    except (YAMLError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def inherit(details: CardDetails, older: str | None) -> CardDetails:
    """The details, with the terms of an older card where they name none."""
    terms = terms_of(older or "")
    return replace(details, license=details.license or terms.license, datasets=details.datasets or terms.datasets)


def _mark(text: str) -> str:
    head, rest = text.split("\n---\n", 1)
    mark = f"<!-- dyzoo {__version__} wrote this card ({_digest(text)}); once edited, it is left alone -->\n"
    return f"{head}\n---\n{mark}{rest}"


def is_hand_written(text: str) -> bool:
    """Whether a README.md is anything else than `write_card` wrote it."""
    found = _MARK.search(text)
    return bool(text.strip()) and (found is None or found[1] != _digest(_MARK.sub("", text, count=1)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.replace("\r\n", "\n").encode()).hexdigest()[:12]


def _metadata(config: DetectorConfig, name: str, details: CardDetails) -> str:
    results = [
        EvalResult(
            task_type="object-detection",
            dataset_type=re.sub(r"[^\w.-]+", "-", measured.dataset).strip("-").lower() or "unnamed",
            dataset_name=_line(measured.dataset),
            dataset_split=_line(measured.split),
            metric_type=kind,
            metric_name=title,
            metric_value=round(value, 4),
        )
        for measured in details.measurements
        for metric, (kind, title) in _METRICS.items()
        if (value := measured.metrics.get(metric)) is not None and math.isfinite(value)
    ]
    data = ModelCardData(
        library_name="dyzoo",
        pipeline_tag="object-detection",
        license=_line(details.license or "") or None,
        datasets=[_line(dataset) for dataset in details.datasets] or None,
        base_model=_line(details.base_model or "") or None,
        tags=["object-detection", "dyhead", config.head.type.replace("_", "-"), "timm"],
        model_name=_line(name).rsplit("/", 1)[-1] if results else None,
        eval_results=results or None,
    )
    return data.to_yaml()


def _introduction(config: DetectorConfig) -> str:
    classes = f"{len(config.labels)} classes" if len(config.labels) > 1 else f"one class, {_plain(config.labels[0])}"
    return (
        f"An object detector for {classes}: a feature pyramid over timm's `{config.backbone.name}`, Dynamic Head "
        f"attention ([Dai et al., CVPR 2021](https://arxiv.org/abs/2106.08322)) and the head of {_head(config)}. "
        "It is for the Python package `dyzoo`."
    )


def _usage(name: str) -> str:
    return f"""\
## Use

```python
import dyzoo

model = dyzoo.Detector.from_pretrained({json.dumps(name, ensure_ascii=False)})
for detections in model.predict(["a.jpg", "b.jpg"], threshold=0.3):
    print(detections.names, detections.boxes_xyxy, detections.scores, detections.labels)
```

```sh
dyzoo predict photos/ --model {_argument(name)}
```"""


def _table(config: DetectorConfig, parameters: int) -> str:
    fpn, dyhead, input_ = config.fpn, config.dyhead, config.preprocess
    blocks = f"{dyhead.num_blocks} of {dyhead.channels} channels" if dyhead.num_blocks else "none"
    if dyhead.num_blocks:
        form = f"offsets `{dyhead.offset_mode}`" if dyhead.form == "pyramid" else "on levels of one size"
        blocks += f", {form}"
    rows = {
        "architecture": f"`{config.architecture}`",
        "parameters": f"{parameters / 1e6:.1f} M",
        "backbone": f"timm's `{config.backbone.name}`",
        "pyramid": f"{fpn.channels} channels, strides {', '.join(map(str, fpn.strides_px))} px",
        "DyHead blocks": blocks,
        "head": _head(config),
        "input": f"{input_.channel_order}, shortest edge {input_.shortest_edge} px, longest at most "
        f"{input_.longest_edge} px, padded to multiples of {input_.size_divisor} px",
        "mean, standard deviation": f"{_numbers(input_.mean)}; {_numbers(input_.std)} (of 0 to 255)",
    }
    return "\n".join(["## What it is", "", "| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items())])


def _labels(labels: Sequence[str]) -> str:
    shown = ", ".join(f"{index} {_plain(label)}" for index, label in enumerate(labels[:_LABELS_SHOWN]))
    more = f" and {len(labels) - _LABELS_SHOWN} more, see `config.json`" if len(labels) > _LABELS_SHOWN else ""
    return f"Labels: {shown}{more}."


def _measured(name: str, measurements: Sequence[Measurement]) -> str:
    if not measurements:
        return (
            "## What it reaches\n\nNothing has been measured with these weights yet. "
            f"`dyzoo evaluate --data DIR --model {_argument(name)}` measures them on your data."
        )
    return "\n\n".join(["## What it reaches", *(_measurement(name, measured) for measured in measurements)])


def _measurement(name: str, measured: Measurement) -> str:
    columns = ("AP", "AP50", "AP75")
    rows = ["| class | boxes | AP | AP50 | AP75 |", "|---|---:|---:|---:|---:|"]
    per_class = {_plain(label): values for label, values in measured.per_class.items()}
    for label, values in {**per_class, "**all**": measured.metrics}.items():
        boxes = values.get("boxes")
        cells = [label, "" if boxes is None else f"{boxes:g}", *(_number(values, column) for column in columns)]
        rows.append(f"| {' | '.join(cells)} |")
    others = ", ".join(
        f"{metric} {_number(measured.metrics, metric)}" for metric in measured.metrics if metric not in columns
    )
    table = "\n".join(rows)
    return f"""\
On the {measured.split} split of {_plain(measured.dataset)}, {measured.num_images} images, COCO metrics by pycocotools:

{table}

{others}{". " + measured.note if measured.note else ""}

```sh
dyzoo evaluate --data {_argument(measured.dataset)} --split {_argument(measured.split)} --model {_argument(name)}
```"""


def _head(config: DetectorConfig) -> str:
    names = {
        "atss": "ATSS",
        "grounded_atss": "ATSS with outputs for the tokens of class names",
        "retinanet": "RetinaNet",
        "fcos": "FCOS",
        "faster_rcnn": "Faster R-CNN",
    }
    return names.get(config.head.type, config.head.type)


def _line(text: str) -> str:
    """One line, so that nothing ends the block of metadata."""
    return " ".join(text.split())


def _plain(text: str) -> str:
    """One line without Markdown's and HTML's meaning: labels and folders are named by anybody."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", _line(text))


def _title(name: str) -> str:
    return _plain(name.rsplit("/", 1)[-1])


def _argument(text: str) -> str:
    return text if re.fullmatch(r"[\w./-]+", text) else "'" + _line(text).replace("'", "'\\''") + "'"


def _number(values: Metrics, name: str) -> str:
    value = values.get(name)
    return "-" if value is None else f"{value:.3f}"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
