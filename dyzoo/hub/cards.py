"""Model cards: the README.md beside a detector's weights, with the metadata that the Hugging Face Hub reads.

Measured numbers go into a card with the command that gives them again; what others report is said to be that.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from yaml import YAMLError

from dyzoo._version import __version__
from dyzoo.config import DetectorConfig
from dyzoo.errors import CheckpointError, DyzooWarning
from dyzoo.hub.markdown import one_line, plain, shell_argument
from dyzoo.hub.measurements import Measurement, index_entries, section, with_measurement, with_rounded_weights

CARD_NAME = "README.md"

_MARK = re.compile(r"<!-- dyzoo [^ ]* wrote this card \(([0-9a-f]{12})\); once edited, it is left alone -->\n")
_LOADED = re.compile(r'(?P<by>dyzoo\.load|\.from_pretrained)\((?P<name>"(?:[^"\\]|\\.)*")\)')  # the latter: 0.1
_LABELS_SHOWN = 100
_CARD_AT_MOST = 1_000_000  # characters
_TERMS_READ = 100


class CardKeptWarning(DyzooWarning):
    """A repository's card was left as somebody wrote it."""


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
        name: `org/name`, a folder or a checkpoint of the catalogue, as `dyzoo.load` takes it.
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
                section(name, details.measurements),
                f"## Training\n\n{details.training}" if details.training else "",
            ],
        )
    )
    return _mark(f"---\n{_metadata(config, name, details)}\n---\n\n{body}\n")


def adapt_card(text: str, name: str, details: CardDetails | None = None, rounded_to: str = "") -> str:
    """A card that `write_card` wrote, for the same detector under another name.

    Args:
        text: the card.
        name: as for `write_card`.
        details: licence and data sets in place of those that are there, and measurements besides.
        rounded_to: the type that the weights are stored in, if it is narrower than the one that was measured.

    Raises:
        CheckpointError: its metadata is damaged.
    """
    details = details or CardDetails()
    card, own = _read_card(_MARK.sub("", text, count=1)), terms_of(text)
    if card is None:
        raise CheckpointError(f"the metadata of the {CARD_NAME} is damaged, expected YAML: mend it or remove the file")
    data: Any = card.data
    data.license = one_line(details.license or "") or own.license
    data.datasets = [one_line(dataset) for dataset in details.datasets] or own.datasets or None
    for measured in details.measurements:
        new = index_entries(measured)
        places = {(entry.dataset_name, entry.dataset_split) for entry in new}
        old = data.get("eval_results") or []
        data.eval_results = [e for e in old if (e.dataset_name, e.dataset_split) not in places] + new or None
    if data.get("eval_results"):
        data.model_name = one_line(name).rsplit("/", 1)[-1]
    content = str(card)
    if found := _LOADED.search(content):
        old_name = json.loads(found["name"])
        for before, after in (
            (found[0], f"{found['by']}({json.dumps(name, ensure_ascii=False)})"),
            (f"--model {shell_argument(old_name)}", f"--model {shell_argument(name)}"),
            (f"\n# {_title(old_name)}\n", f"\n# {_title(name)}\n"),
        ):
            content = content.replace(before, after)
    if rounded_to:
        content = with_rounded_weights(content, rounded_to)
    for measured in details.measurements:
        content = with_measurement(content, name, measured)
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
    if not text.strip() or len(text) > _CARD_AT_MOST:  # of an empty one huggingface_hub says that it has no metadata
        return None
    try:
        return ModelCard(text, ignore_metadata_errors=True)
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
    results = [entry for measured in details.measurements for entry in index_entries(measured)]
    data = ModelCardData(
        library_name="dyzoo",
        pipeline_tag="object-detection",
        license=one_line(details.license or "") or None,
        datasets=[one_line(dataset) for dataset in details.datasets] or None,
        base_model=one_line(details.base_model or "") or None,
        tags=["object-detection", "dyhead", config.head.type.replace("_", "-"), "timm"],
        model_name=one_line(name).rsplit("/", 1)[-1] if results else None,
        eval_results=results or None,
    )
    return data.to_yaml()


def _introduction(config: DetectorConfig) -> str:
    classes = f"{len(config.labels)} classes" if len(config.labels) > 1 else f"one class, {plain(config.labels[0])}"
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

model = dyzoo.load({json.dumps(name, ensure_ascii=False)})
for detections in model.predict(["a.jpg", "b.jpg"], threshold=0.3):
    print(detections.names, detections.boxes_xyxy, detections.scores, detections.labels)
```

```sh
dyzoo predict photos/ --model {shell_argument(name)}
```"""


def _table(config: DetectorConfig, parameters: int) -> str:
    fpn, dyhead, input_ = config.fpn, config.dyhead, config.preprocess
    blocks = f"{dyhead.num_blocks} of {dyhead.channels} channels" if dyhead.num_blocks else "none"
    if dyhead.num_blocks:
        form = f"offsets `{dyhead.offset_mode}`" if dyhead.form == "pyramid" else "on levels of one size"
        blocks += f", {form}"
        missing = [name for name in ("scale", "spatial", "task") if not getattr(dyhead, name)]
        blocks += f", without {' and '.join(f'{name}-aware' for name in missing)} attention" if missing else ""
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
    shown = ", ".join(f"{index} {plain(label)}" for index, label in enumerate(labels[:_LABELS_SHOWN]))
    more = f" and {len(labels) - _LABELS_SHOWN} more, see `config.json`" if len(labels) > _LABELS_SHOWN else ""
    return f"Labels: {shown}{more}."


def _head(config: DetectorConfig) -> str:
    names = {
        "atss": "ATSS",
        "grounded_atss": "ATSS with outputs for the tokens of class names",
        "retinanet": "RetinaNet",
        "fcos": "FCOS",
        "faster_rcnn": "Faster R-CNN",
    }
    return names.get(config.head.type, config.head.type)


def _title(name: str) -> str:
    return plain(name.rsplit("/", 1)[-1])


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
