"""A detector's configuration as transformers' configuration of a model, from and to the same `config.json`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, fields
from os import PathLike
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from dyzoo.config import DetectorConfig
from dyzoo.config.transformers_keys import MODEL_CLASS, MODEL_TYPE, transformers_keys, without_repositories
from dyzoo.config.values import shown
from dyzoo.errors import CheckpointError, DyzooWarning
from dyzoo.files import write_text
from dyzoo.hub.remote_code import PROCESSOR_NAME, remote_files

_SETTINGS = tuple(field.name for field in fields(DetectorConfig) if field.name != "labels")


class DyzooConfig(PretrainedConfig):
    """The settings of `dyzoo.config.DetectorConfig` as attributes, plain values all of them; `detector` checks them.

    Args:
        values: settings of a `config.json`, and those that transformers adds. The classes are `labels`, or, as
            everywhere in transformers, `id2label` or `num_labels`.

    Raises:
        CheckpointError: a setting is of a wrong type or out of its range.
    """

    model_type = MODEL_TYPE

    def __init__(self, **values: Any) -> None:
        names = {*_SETTINGS, "labels", "version"}
        config = DetectorConfig.from_dict({name: values.pop(name) for name in names & values.keys()})
        told = {name: values.pop(name, None) for name in transformers_keys(())}
        labels: tuple[str, ...] = config.labels or _labels(told["id2label"] or {})
        number = values.pop("num_labels", None)
        if number is not None and number != len(labels):
            labels = tuple(f"LABEL_{index}" for index in range(number))
        self._trained_labels = config.labels
        for name, value in asdict(config).items():
            if name in _SETTINGS:
                setattr(self, name, value)
        keys = transformers_keys(labels)
        keys.pop("model_type")
        super().__init__(**{**values, **keys, "architectures": [MODEL_CLASS]})

    @property
    def detector(self) -> DetectorConfig:
        """The configuration of the detector that these settings and `id2label` describe.

        Raises:
            CheckpointError: a setting is of a wrong type or out of its range, or `id2label` does not count from 0.
        """
        settings = {name: getattr(self, name) for name in _SETTINGS}
        config = DetectorConfig.from_dict({**settings, "labels": self._trained_labels}, "the configuration")
        labels = _labels(self.id2label)
        return config if labels == config.labels else config.with_labels(labels)

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], **options: Any) -> Any:
        """As in transformers.

        Raises:
            CheckpointError: `config.json` is refused by dyzoo: a setting is unknown, of a wrong type or out of its
                range, or says something else to transformers than dyzoo writes.
        """
        values = {name: value for name, value in config_dict.items() if name != "_commit_hash"}
        DetectorConfig.from_dict(without_repositories(values))
        return super().from_dict(dict(config_dict), **options)

    def to_dict(self) -> dict[str, Any]:
        """The content of `config.json`."""
        config = self.detector
        return {**config.to_dict(), **transformers_keys(config.labels)}

    def to_diff_dict(self) -> dict[str, Any]:
        """The same: nothing is left out, so that dyzoo reads it whatever its defaults become."""
        return self.to_dict()

    def to_json_string(self, use_diff: bool = True) -> str:
        """The text of `config.json`, as `Detector.save_pretrained` writes it; `use_diff` changes nothing."""
        return self.detector.to_json(for_transformers=True)

    def to_json_file(self, json_file_path: str | PathLike[str], use_diff: bool = True) -> None:
        """Write the text of `config.json`, aside and then renamed."""
        write_text(Path(json_file_path), self.to_json_string())

    def save_pretrained(self, save_directory: str | PathLike[str], push_to_hub: bool = False, **options: Any) -> None:
        """As in transformers, with the files beside it that lead to dyzoo's code.

        An image processor of other settings is to be saved behind the model: it is replaced, with a warning, otherwise.
        """
        folder = Path(save_directory)
        for name, text in remote_files(self.detector).items():
            path = folder / name
            if name == PROCESSOR_NAME and path.is_file() and path.read_text(encoding="utf-8", errors="replace") != text:
                warnings.warn(
                    f"{path} has other settings than the model's config.preprocess, it is replaced: save the image "
                    "processor behind the model",
                    DyzooWarning,
                    stacklevel=3,
                )
            write_text(path, text)
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **options)

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoConfig") -> None:
        """Do nothing: `config.json` names where the code is, and nobody's copy of it is to be saved beside."""


def _labels(id2label: Mapping[Any, Any]) -> tuple[str, ...]:
    try:
        numbers = {int(number): label for number, label in id2label.items()}
    except (TypeError, ValueError):
        raise CheckpointError(f"id2label has the keys {shown(list(id2label))}, expected numbers") from None
    if sorted(numbers) != list(range(len(numbers))):
        raise CheckpointError(f"id2label has the keys {shown(sorted(numbers))}, expected 0 to {len(numbers) - 1}")
    return tuple(numbers[number] for number in range(len(numbers)))
