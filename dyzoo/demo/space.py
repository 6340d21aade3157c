"""A Space of the Hugging Face Hub that runs the page for a detector there."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from huggingface_hub import CommitInfo

from dyzoo import hub
from dyzoo._version import __version__
from dyzoo.demo.installed import GRADIO
from dyzoo.demo.static_page import write_static_page
from dyzoo.hub.cards import CARD_NAME, terms_of
from dyzoo.hub.spaces import SDK, push_space
from dyzoo.model.detector import Detector

_PYTHON = "3.11"
_APP_NAME, _REQUIREMENTS_NAME = "app.py", "requirements.txt"


def push_demo(
    repo_id: str,
    *,
    sdk: SDK = "gradio",
    revision: str | None = None,
    private: bool | None = None,
    token: hub.Token = None,
    replace: bool = False,
) -> CommitInfo | None:
    """Put a Space on the Hub that runs a page for a detector there, under the detector's name.

    The Space of a private detector is made private, too. With "gradio" it needs a token that may read the detector, as
    its secret HF_TOKEN.

    Args:
        repo_id: the detector's, org/name.
        sdk: "gradio" for the page with Python behind it, which fetches the detector; "static" for the one that runs in
            the visitor's browser and holds the detector, exported here.
        revision: the detector's branch, tag or commit; None: main.
        private: who may see a new Space; None: those who see the detector.
        token: see `Token`.
        replace: also files of the Space that somebody wrote or edited there, which are kept otherwise, with a warning.

    Returns:
        The commit; None where all files there are somebody's own.

    Raises:
        HubError: no access, no network, or `private` asked for a Space that is public.
        ExportError: with "static", the detector is too large for a page or cannot be exported.
    """
    repo_id, revision = hub.split_id(repo_id, revision)
    card = hub.read_text(repo_id, CARD_NAME, revision=revision, token=token)
    license = terms_of(card or "").license
    is_private = hub.is_private(repo_id, token=token)
    with TemporaryDirectory(prefix="dyzoo_") as folder:
        files: dict[str, Path] = {}
        if sdk == "gradio":
            texts = space_texts(repo_id, revision, license)
        else:
            page = Path(folder) / "page"
            detector = Detector.from_pretrained(repo_id, revision=revision, token=token)
            write_static_page(detector, page, title=_title(repo_id), license=license, repo_id=repo_id)
            files = {path.relative_to(page).as_posix(): path for path in sorted(page.rglob("*")) if path.is_file()}
            texts = {CARD_NAME: files.pop(CARD_NAME).read_text(encoding="utf-8")}
        return push_space(
            repo_id,
            texts,
            sdk=sdk,
            files=files,
            private=private,
            private_if_new=is_private or None,
            token=token,
            commit_message=f"Demo of {repo_id}",
            replace=replace,
        )


def space_texts(repo_id: str, revision: str | None = None, license: str | None = None) -> dict[str, str]:
    """README.md, app.py and requirements.txt of the Space of a detector, by name.

    Args:
        repo_id: org/name.
        revision: branch, tag or commit.
        license: the detector's, by the Hub's short name.
    """
    title = _title(repo_id)
    metadata: dict[str, Any] = {
        "title": title,
        "sdk": "gradio",
        "sdk_version": GRADIO,
        "python_version": _PYTHON,
        "app_file": _APP_NAME,
        "models": [repo_id],
        **({} if license is None else {"license": license}),
    }
    model = repo_id if revision is None else f"{repo_id}@{revision}"
    readme = (
        f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---\n\n"
        f"# {title}\n\nLooks for objects in pictures, with the detector [{repo_id}](/{repo_id}).\n"
    )
    app = (
        "from dyzoo.demo.app import create_app\n"
        "from dyzoo.demo.serving import serve\n\n"
        f"serve(create_app([{json.dumps(model)}], catalog=False))\n"
    )
    return {CARD_NAME: readme, _APP_NAME: app, _REQUIREMENTS_NAME: f"dyzoo[demo]=={__version__}\n"}


def _title(repo_id: str) -> str:
    return repo_id.rsplit("/", 1)[-1]
