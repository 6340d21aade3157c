"""Pushing a training run or a saved detector to the Hugging Face Hub, with all that its folder tells in the card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from huggingface_hub import CommitInfo

from dyzoo import hub
from dyzoo.errors import UnknownModelError
from dyzoo.hub.cards import CardDetails, adapt_card, is_hand_written
from dyzoo.hub.run_card import is_run, local_card, run_details, run_files
from dyzoo.zoo.creation import load_model


def push_run(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: hub.Token = None,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    dtype: torch.dtype | None = None,
    license: str | None = None,
    datasets: str | Sequence[str] = (),
    replace_card: bool = False,
) -> CommitInfo:
    """Upload a training run's best detector, or a saved one, to the Hugging Face Hub in one commit.

    A run brings its curves and settings along, and in the card how it trained and what it reaches on the validation
    split; metrics that are not those of the weights are left out, with a warning. A README.md that you wrote yourself
    beside the weights is the card.

    Args:
        folder: a run's folder, or one that `save_pretrained` wrote.
        repo_id, private, token, revision, commit_message, create_pr, dtype, replace_card: as for
            `Detector.push_to_hub`.
        license: the card's licence, by the Hub's short name, such as "mit".
        datasets: ids on the Hub of the data that it was trained on, for the card.

    Returns:
        The commit's URL, and more as attributes.

    Raises:
        UnknownModelError: `folder` is none.
        CheckpointError: its detector is missing or damaged, or a weight is too large for `dtype`.
        TrainingError: the run's `train.json` is damaged.
        HubError: no token, no access, no network, or `private` asked for a repository that is public.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UnknownModelError(f"{folder} is no folder, expected a run's or one that save_pretrained wrote")
    hub.require_token(token)  # before a detector is loaded for nothing
    model = load_model(folder)
    details = CardDetails(license=license, datasets=[datasets] if isinstance(datasets, str) else datasets)
    with TemporaryDirectory() as staging:
        files: dict[str, Path] = {}
        if is_run(folder):
            rounded_to = "" if dtype is None else str(dtype).removeprefix("torch.")
            details = run_details(folder, model.config, details, rounded_to=rounded_to)
            files = run_files(folder, Path(staging), measured=bool(details.measurements))
        card: CardDetails | str = details
        text = local_card(folder)
        if text.strip():
            card = text if is_hand_written(text) else adapt_card(text, repo_id, details)
        return model.push_to_hub(
            repo_id,
            private=private,
            token=token,
            revision=revision,
            commit_message=commit_message,
            create_pr=create_pr,
            dtype=dtype,
            card=card,
            replace_card=replace_card,
            files=files,
        )
