"""Spaces of the Hugging Face Hub: files put there in one commit, but for those that somebody has edited there."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from huggingface_hub import CommitInfo

from dyzoo._version import __version__
from dyzoo.errors import DyzooWarning
from dyzoo.files import write_text
from dyzoo.hub.cards import CARD_NAME
from dyzoo.hub.ids import Token
from dyzoo.hub.upload import commit, prepare_repo, read_text

SDK = Literal["gradio", "static"]

_MARK = re.compile(r"^# dyzoo [^ ]* wrote this file \(([0-9a-f]{12})\); once edited, it is left alone\n", re.MULTILINE)
# The Hub writes a README.md of its own into a new Space: metadata, and nothing but this line.
_OF_THE_HUB = re.compile(r"\s*---\n(?:(?!---\n).*\n)*---\s*Check out the configuration reference at \S+\s*")


class SpaceKeptWarning(DyzooWarning):
    """Files of a Space were left as somebody wrote them."""


def push_space(
    space_id: str,
    texts: Mapping[str, str],
    *,
    sdk: SDK,
    files: Mapping[str, Path] | None = None,
    private: bool | None = None,
    private_if_new: bool | None = None,
    token: Token = None,
    commit_message: str = "Upload a demo",
    replace: bool = False,
) -> CommitInfo | None:
    """Put files into a Space, in one commit; the Space is made if absent.

    Args:
        space_id: org/name.
        texts: the content of text files in which `#` begins a comment (README.md in its metadata), by their names in
            the Space. They are marked as dyzoo's; one there that has no mark, or was edited, stays, with a warning.
        sdk: of a new Space.
        files: more files, which replace those that are there. With any, nothing is put into a Space whose README.md
            says that it is another's, or of another `sdk`, unless `replace` is given.
        private: who may see a new Space; one that is public already is refused. None: as `private_if_new`.
        private_if_new: as `private`, without a word on one that is there. None: the account's default.
        token: see `Token`.
        commit_message: the commit's.
        replace: also files that somebody wrote or edited there.

    Returns:
        The commit; None where nothing was put there.

    Raises:
        HubError: no access, no network, or `private` asked for a Space that is public.
    """
    space_id, is_new = prepare_repo(
        space_id, private=private, private_if_new=private_if_new, token=token, space_sdk=sdk
    )
    marked = {name: _marked(text) for name, text in texts.items()}
    if not is_new and not replace:
        there = {name: read_text(space_id, name, token=token, repo_type="space") for name in marked}
        kept = sorted(name for name, text in there.items() if text is not None and _is_edited(name, text))
        if files and CARD_NAME in kept and not _is_ours(there[CARD_NAME] or "", sdk):
            warnings.warn(
                f"the Space {space_id} is somebody's own, as its README.md says, and is kept as it is: "
                "--replace-card puts the page in its place",
                SpaceKeptWarning,
                stacklevel=2,
            )
            return None
        if kept:
            warnings.warn(
                f"the Space {space_id} has {', '.join(kept)} that somebody wrote or edited, kept as it is: "
                "--replace-card puts new ones in their place",
                SpaceKeptWarning,
                stacklevel=2,
            )
        marked = {name: text for name, text in marked.items() if name not in kept}
    with TemporaryDirectory() as staging:
        for name, text in marked.items():
            write_text(Path(staging) / name, text)
        staged = {**(files or {}), **{name: Path(staging) / name for name in marked}}
        if not staged:
            return None
        return commit(space_id, staged, commit_message, token=token, repo_type="space")


def _marked(text: str) -> str:
    """The text with a comment that says who wrote it, on the first line, or the first one of metadata."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    mark = f"# dyzoo {__version__} wrote this file ({digest}); once edited, it is left alone\n"
    head = "---\n" if text.startswith("---\n") else ""
    return head + mark + text.removeprefix(head)


def _is_edited(name: str, text: str) -> bool:
    """Whether a file of a Space is anything else than `push_space` or the Hub wrote it."""
    text = text.replace("\r\n", "\n")
    if not text.strip() or (name == CARD_NAME and _OF_THE_HUB.fullmatch(text)):
        return False
    found = _MARK.search(text)
    return found is None or found[1] != hashlib.sha256(_MARK.sub("", text, count=1).encode()).hexdigest()[:12]


def _is_ours(text: str, sdk: SDK) -> bool:
    """Whether an edited README.md was once `push_space`'s, and is of a Space of that kind."""
    return bool(_MARK.search(text.replace("\r\n", "\n")) and re.search(rf"^sdk: *{sdk}\s*$", text, re.MULTILINE))
