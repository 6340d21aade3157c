"""The model card of a training run, and the files beside it: all that the run's folder tells about its detector.

Nothing of the machine that trained leaves it: a path keeps its last name alone.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from typing import Any

from dyzoo.config import DetectorConfig
from dyzoo.errors import DyzooWarning, TrainingError, first_line
from dyzoo.files import read_regular, write_text
from dyzoo.hub.cards import CARD_NAME, CardDetails, is_hand_written
from dyzoo.hub.ids import WEIGHTS_NAME
from dyzoo.hub.measurements import Measurement

BEST_NAME = "best"  # the folder of a training run that holds its best detector

_MAX_TEXT_BYTES = 1 << 26  # limit for a card, and for a run's settings and metrics
_OF_THE_MACHINE = ("out", "device", "workers", "resume")  # settings that mean nothing elsewhere


class MetricsLeftOutWarning(DyzooWarning):
    """A card says nothing of metrics, as the run has none that were measured with its weights."""


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a training run."""
    return (folder / BEST_NAME).is_dir()


def local_card(folder: Path) -> str:
    """The text of the card beside the weights of a run or a folder; empty without one, or where training wrote it."""
    text = _text((folder / BEST_NAME if is_run(folder) else folder) / CARD_NAME)
    return "" if is_run(folder) and not is_hand_written(text) else text


def run_details(
    run: Path, config: DetectorConfig, details: CardDetails | None = None, *, rounded_to: str = ""
) -> CardDetails:
    """How a run trained, what it started from and what it reaches, added to `details`.

    Metrics that are missing, damaged or older than the weights are left out, with a warning.

    Args:
        run: its folder.
        config: configuration of its detector.
        details: licence and data sets.
        rounded_to: the type that the weights are stored in, if it is narrower than the one that was measured.

    Raises:
        TrainingError: `train.json` is damaged.
    """
    details = details or CardDetails()
    settings = _settings(run)
    data = str(settings.get("data") or "the training data")
    measurement = _measurement(run, data, str(settings.get("val_split", "val")), rounded_to)
    started, base_model = _start(settings, config.backbone.name)
    training = ""
    if settings:
        steps = [
            f"{settings.get('epochs')} epochs in batches of {settings.get('batch_size')}",
            f"learning rate {settings.get('lr')}",
            f"seed {settings.get('seed')}",
            *([f"from {started}"] if started else []),
        ]
        training = (
            f"With `dyzoo train` on the {settings.get('train_split', 'train')} split of {data}: "
            f"{', '.join(steps)}. All settings are in `train.json`."
        )
    return replace(
        details,
        measurements=[measurement] if measurement else [],
        base_model=details.base_model or base_model,
        training=training,
    )


def run_files(run: Path, staging: Path, *, measured: bool) -> dict[str, Path]:
    """Curves, metrics and settings of a run, by their names in a repository.

    Args:
        run: its folder.
        staging: a folder for the settings that go out, which lack those of the machine.
        measured: whether the plots of its evaluation belong to its weights.

    Raises:
        TrainingError: `train.json` is damaged.
    """
    names = ["curves.png", "metrics.csv", *(["evaluation/pr_curve.png"] if measured else [])]
    files = {name: run / name for name in names if (run / name).is_file()}
    if settings := _settings(run):
        kept = {name: value for name, value in settings.items() if name not in _OF_THE_MACHINE}
        files["train.json"] = staging / "train.json"
        write_text(files["train.json"], json.dumps(kept, indent=2) + "\n")
    return files


def _settings(run: Path) -> dict[str, Any]:
    """The run's `train.json` without the folders of this machine."""
    try:
        settings = json.loads(_text(run / "train.json") or "{}")
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise TrainingError(f"{run / 'train.json'} is damaged, expected what `dyzoo train` wrote: remove it to go on")
    return {name: PureWindowsPath(value).name if isinstance(value, str) else value for name, value in settings.items()}


def _start(settings: Mapping[str, Any], backbone: str) -> tuple[str, str | None]:
    """The weights that training started from, in words, and their id on the Hub if they have one."""
    if settings.get("weights"):
        return f"the detector `{settings['weights']}`", None
    if settings.get("backbone_weights"):
        return f"the backbone weights `{settings['backbone_weights']}`", None
    if settings.get("resume"):
        return "", None  # those of the run's first part, which its settings no longer tell
    if settings.get("pretrained_backbone"):
        return "timm's published backbone weights", _published_backbone(backbone)
    return "random weights", None


def _published_backbone(name: str) -> str | None:
    """The repository of timm's weights for a backbone, such as `timm/resnet50.a1_in1k`."""
    import timm

    known = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return getattr(known, "hf_hub_id", None)


def _measurement(run: Path, data: str, split: str, rounded_to: str) -> Measurement | None:
    """The metrics of `evaluation/`, if they are those of the weights in `best/`."""
    path, weights_path = run / "evaluation" / "metrics.json", run / BEST_NAME / WEIGHTS_NAME
    if not path.is_file():
        reason = f"{run} has no {path.relative_to(run)}"
    elif path.stat().st_mtime < weights_path.stat().st_mtime:
        reason = f"{path} is older than the weights"
    else:
        try:
            report = json.loads(_text(path))
            remark = "The epoch was chosen by the AP on this split."
            if rounded_to:
                remark += f" Measured before the weights were rounded to {rounded_to}."
            return Measurement(data, split, report["metrics"], report["per_class"], int(report["images"]), remark)
        except (ValueError, KeyError, TypeError) as error:
            reason = f"{path} is damaged ({first_line(error)})"
    again = f"`dyzoo evaluate --data DIR --split {split} --model {run} --out {path.parent}` measures them"
    warnings.warn(
        f"{reason}, the card says nothing of metrics: {again}",
        MetricsLeftOutWarning,
        stacklevel=4,  # the caller of push_run
    )
    return None


def _text(path: Path) -> str:
    return read_regular(path, _MAX_TEXT_BYTES).decode("utf-8", "replace") if path.exists() else ""
