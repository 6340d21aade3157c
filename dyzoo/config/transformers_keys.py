"""The keys by which the Hugging Face library transformers finds a detector's classes in the same `config.json`.

Everything in them follows from the detector's own settings: they are written beside those, and on reading they have to
say just that, or be absent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dyzoo.config.values import shown
from dyzoo.errors import CheckpointError

MODEL_TYPE = "dyzoo"
CODE_NAME = "modeling_dyzoo.py"
"""The file beside `config.json` that `auto_map` leads to; it imports the classes below from `dyzoo.hf_transformers`."""

CONFIG_CLASS = "DyzooConfig"
MODEL_CLASS = "DyzooForObjectDetection"
PROCESSOR_CLASS = "DyzooImageProcessor"
PIPELINE_CLASS = "DyzooObjectDetectionPipeline"

_AUTO_CLASSES = {
    "AutoConfig": CONFIG_CLASS,
    "AutoModelForObjectDetection": MODEL_CLASS,
    "AutoImageProcessor": PROCESSOR_CLASS,
}


def code_reference(class_name: str) -> str:
    """The place of a class, as `auto_map` has it."""
    return f"{CODE_NAME.removesuffix('.py')}.{class_name}"


_CODE_REFERENCES = {code_reference(name) for name in (*_AUTO_CLASSES.values(), PIPELINE_CLASS)}


def auto_map(*auto_classes: str) -> dict[str, str]:
    """The `auto_map` of these auto classes of transformers; without any, of all three."""
    return {name: code_reference(_AUTO_CLASSES[name]) for name in auto_classes or _AUTO_CLASSES}


def transformers_keys(labels: Sequence[str]) -> dict[str, Any]:
    """The keys that `config.json` has for transformers, of a detector of these classes."""
    implementation = {"impl": code_reference(PIPELINE_CLASS), "pt": ["AutoModelForObjectDetection"]}
    return {
        "model_type": MODEL_TYPE,
        "architectures": [MODEL_CLASS],
        "auto_map": auto_map(),
        "custom_pipelines": {"object-detection": implementation},
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
    }


def split_keys(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of a `config.json`, and what it says to transformers."""
    names = transformers_keys(())
    settings = {name: value for name, value in values.items() if name not in names}
    return settings, {name: value for name, value in values.items() if name in names}


def without_repositories(value: Any) -> Any:
    """The same without the `org/name--` that transformers puts before places of code that it reads from the Hub."""
    if isinstance(value, str):
        return value.rpartition("--")[2] if value.endswith(tuple(_CODE_REFERENCES)) else value
    return {key: without_repositories(each) for key, each in value.items()} if isinstance(value, dict) else value


def check_keys(told: Mapping[str, Any], labels: Sequence[str], source: str | Path) -> None:
    """Refuse keys that say something else than `transformers_keys`; each may be absent.

    Raises:
        CheckpointError: one does: transformers would run other code, or name the classes otherwise.
    """
    expected = transformers_keys(labels)
    for name, value in told.items():
        if value == expected[name]:
            continue
        if name in ("id2label", "label2id"):
            raise CheckpointError(
                f"{source}: {name} names other classes than labels: change both, or remove id2label and label2id"
            )
        raise CheckpointError(f"{source}: {name} is {shown(value)}, expected {expected[name]!r}, or no {name}")
