"""`dyzoo push`: put a detector on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dyzoo.cli.terminal import note, say


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
        str | None,
        typer.Option("--message", metavar="TEXT", help="Message of the commit.", show_default="the architecture"),
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
        bool, typer.Option("--replace-card", help="Even if somebody edited the one on the Hub, or the Space's files.")
    ] = False,
    space: Annotated[
        bool, typer.Option("--space", help="Put a Space there, too, that runs the page of `dyzoo demo` for it.")
    ] = False,
    space_sdk: Annotated[
        Literal["gradio", "static"] | None,
        typer.Option(
            "--space-sdk",
            help="With --space: Python behind the page, or the detector in the visitor's browser.",
            show_default="gradio",
        ),
    ] = None,
) -> None:
    """Put a detector on the Hugging Face Hub, in one commit.

    Uploads config.json, model.safetensors, what transformers needs to load them, and a model card; of a run also its
    curves, and in the card the metrics measured on the validation split. A README.md that you wrote yourself beside the
    weights is the card. Log in first with `hf auth login`, or set HF_TOKEN.

    \b
    Examples:
      dyzoo push runs/mine me/blood-cells
      dyzoo push runs/mine me/blood-cells --private --dtype float16 --license mit
      dyzoo push runs/mine me/blood-cells --space
      dyzoo push runs/mine me/blood-cells --space --space-sdk static
      dyzoo push folder me/blood-cells --revision v2 --message 'Longer training'
    """
    if space and create_pr:
        raise typer.BadParameter("a Space runs what is on a branch, no pull request", param_hint="--space")
    if space_sdk is not None and not space:
        raise typer.BadParameter("is for a Space: give --space, too", param_hint="--space-sdk")
    if space_sdk == "static":
        _check_page(source)
    import torch

    from dyzoo.zoo.pushing import push_run

    commit = push_run(
        source,
        repo_id,
        private=private or None,
        revision=revision,
        commit_message=message,
        create_pr=create_pr,
        dtype=None if dtype is None else getattr(torch, dtype),
        license=license,
        datasets=dataset or (),
        replace_card=replace_card,
    )
    say(commit.pr_url or commit.commit_url)
    if space:
        _push_space(commit.repo_url.repo_id, space_sdk or "gradio", revision, private, replace_card)


def _check_page(source: Path) -> None:
    """Refuse a detector that cannot become a page before anything is pushed."""
    from dyzoo import hub
    from dyzoo.demo.static_page import check_fits
    from dyzoo.zoo.creation import load_model

    hub.require_token()
    if source.is_dir():  # all else is refused when it is pushed
        check_fits(load_model(source))


def _push_space(
    repo_id: str, sdk: Literal["gradio", "static"], revision: str | None, private: bool, replace: bool
) -> None:
    from huggingface_hub import constants

    from dyzoo import hub
    from dyzoo.demo.space import push_demo

    if sdk == "static":
        note("exporting takes half a minute to two")
    push_demo(repo_id, sdk=sdk, revision=revision, private=private or None, replace=replace)
    say(f"{constants.ENDPOINT}/spaces/{repo_id}")
    if sdk == "gradio" and hub.is_private(repo_id):
        note(f"{repo_id} is private: the Space needs a token that may read it, as the secret HF_TOKEN in its settings")
