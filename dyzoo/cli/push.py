"""`dyzoo push`: put a detector on the Hugging Face Hub."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dyzoo.cli.terminal import note, say
from dyzoo.errors import TrainingError, UnknownModelError, first_line
from dyzoo.files import read_regular

if TYPE_CHECKING:
    from dyzoo.hub.cards import CardDetails, Measurement
    from dyzoo.model.detector import Detector

_MAX_TEXT_BYTES = 1 << 26  # of a card, or a run's settings and metrics
_OF_THE_MACHINE = ("out", "device", "workers", "resume")  # settings that mean nothing elsewhere


def push(
    source: Annotated[
        Path, typer.Argument(metavar="RUN_OR_FOLDER", help="A run's folder, or one that save_pretrained wrote.")
    ],
    repo_id: Annotated[str, typer.Argument(metavar="ORG/NAME", help="The repository; made if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository that only you see.")] = False,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="BRANCH", help="Branch, made if absent.", show_default="main")
    ] = None,
    message: Annotated[
        str | None, typer.Option("--message", metavar="TEXT", help="Of the commit.", show_default="the architecture")
    ] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    dtype: Annotated[
        Literal["float16", "bfloat16"] | None,
        typer.Option("--dtype", help="Store weights in half the bytes.", show_default="as they are"),
    ] = None,
    license: Annotated[
        str | None, typer.Option("--license", metavar="ID", help="For the card: mit, apache-2.0, ...")
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option("--dataset", metavar="ID", help="For the card: the Hub's id of what it was trained on."),
    ] = None,
    replace_card: Annotated[
        bool, typer.Option("--replace-card", help="Even if somebody edited the one on the Hub.")
    ] = False,
) -> None:
    """Put a detector on the Hugging Face Hub, in one commit.

    Uploads config.json, model.safetensors and a model card; of a run also its curves, and in the card the metrics
    measured on the validation split. A README.md that you wrote yourself beside the weights is the card. Log in first
    with `hf auth login`, or set HF_TOKEN.

    \b
    Examples:
      dyzoo push runs/mine me/blood-cells
      dyzoo push runs/mine me/blood-cells --private --dtype float16 --license mit
      dyzoo push folder me/blood-cells --revision v2 --message 'Longer training'
    """
    import torch

    from dyzoo import hub
    from dyzoo.hub.cards import CARD_NAME, CardDetails, adapt_card, is_hand_written
    from dyzoo.zoo.creation import BEST_NAME, load_model

    if not source.is_dir():
        raise UnknownModelError(f"{source} is no folder, expected a run's or one that save_pretrained wrote")
    hub.require_token()  # before a detector is loaded for nothing
    is_run = (source / BEST_NAME).is_dir()
    model = load_model(source)
    details = CardDetails(license=license, datasets=dataset or ())
    with TemporaryDirectory() as staging:
        files: dict[str, Path] = {}
        if is_run:
            details = _run_details(source, model, details, dtype)
            files = _run_files(source, Path(staging), bool(details.measurements))
        card: CardDetails | str = details
        text = _text(source / BEST_NAME / CARD_NAME if is_run else source / CARD_NAME)
        if is_hand_written(text):
            card = text
        elif text.strip() and not is_run:
            card = adapt_card(text, repo_id, details)
        commit = model.push_to_hub(
            repo_id,
            private=private or None,
            revision=revision,
            commit_message=message,
            create_pr=create_pr,
            dtype=None if dtype is None else getattr(torch, dtype),
            card=card,
            replace_card=replace_card,
            files=files,
        )
    say(commit.pr_url or commit.commit_url)


def _run_details(run: Path, model: Detector, details: CardDetails, dtype: str | None) -> CardDetails:
    """What the run's files say about its detector."""
    settings = _settings(run)
    data = str(settings.get("data") or "the training data")
    measurement = _measurement(run, data, str(settings.get("val_split", "val")), dtype)
    started = "random weights"
    base_model = None
    if settings.get("weights"):
        started = f"the detector `{settings['weights']}`"
    elif settings.get("backbone_weights"):
        started = f"the backbone weights `{settings['backbone_weights']}`"
    elif settings.get("pretrained_backbone") and not settings.get("resume"):
        base_model = _published_backbone(model.config.backbone.name)
        started = "timm's published backbone weights"
    elif settings.get("resume"):
        started = ""  # those of the run's first part, which its settings no longer tell
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


def _run_files(run: Path, staging: Path, measured: bool) -> dict[str, Path]:
    """What is worth seeing of a run, by its name in the repository."""
    names = ["curves.png", "metrics.csv", *(["evaluation/pr_curve.png"] if measured else [])]
    files = {name: run / name for name in names if (run / name).is_file()}
    if settings := _settings(run):
        kept = {name: value for name, value in settings.items() if name not in _OF_THE_MACHINE}
        files["train.json"] = staging / "train.json"
        files["train.json"].write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    return files


def _settings(run: Path) -> dict[str, Any]:
    """The run's `train.json` without the folders of this machine: a path keeps its last name alone."""
    try:
        settings = json.loads(_text(run / "train.json") or "{}")
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise TrainingError(f"{run / 'train.json'} is damaged, expected what `dyzoo train` wrote: remove it to go on")
    return {name: PureWindowsPath(value).name if isinstance(value, str) else value for name, value in settings.items()}


def _measurement(run: Path, data: str, split: str, dtype: str | None) -> Measurement | None:
    """The metrics of `evaluation/`, if they are those of the weights in `best/`."""
    from dyzoo.hub.cards import Measurement
    from dyzoo.hub.ids import WEIGHTS_NAME
    from dyzoo.zoo.creation import BEST_NAME

    path, weights_path = run / "evaluation" / "metrics.json", run / BEST_NAME / WEIGHTS_NAME
    again = f"`dyzoo evaluate --data DIR --split {split} --model {run} --out {path.parent}` measures them"
    if not path.is_file():
        note(f"{run} has no {path.relative_to(run)}, the card says nothing of metrics: {again}")
        return None
    if path.stat().st_mtime < weights_path.stat().st_mtime:
        note(f"{path} is older than the weights, the card says nothing of metrics: {again}")
        return None
    try:
        report = json.loads(_text(path))
        remark = "The epoch was chosen by the AP on this split."
        if dtype:
            remark += f" Measured before the weights were rounded to {dtype}."
        return Measurement(data, split, report["metrics"], report["per_class"], int(report["images"]), remark)
    except (ValueError, KeyError, TypeError) as error:
        note(f"{path} is damaged ({first_line(error)}), the card says nothing of metrics: {again}")
        return None


def _published_backbone(name: str) -> str | None:
    """Where timm has the weights of a backbone from, `timm/resnet50.a1_in1k`."""
    import timm

    known = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return getattr(known, "hf_hub_id", None)


def _text(path: Path) -> str:
    return read_regular(path, _MAX_TEXT_BYTES).decode("utf-8", "replace") if path.exists() else ""
