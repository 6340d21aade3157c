"""Names of repositories and revisions, and of the files that a detector is."""

from __future__ import annotations

import re

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from dyzoo.errors import HubError, first_line

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"

Token = str | bool | None  # a token, False: none, None: the one logged in with

_PREFIX = "hf-hub:"

COMMIT = re.compile(r"[0-9a-f]{40}")
_REVISION = re.compile(r"(?!.*(?:\.\.|//))[^\s/\\~^:?*\[-][^\s\\~^:?*\[]*")  # as git allows references to be named
_LOOKS_LIKE_ID = re.compile(r"[^/\s.~][^/]*/[^/]+")


def is_hub_id(name: object) -> bool:
    """Whether a string is meant as `org/name` or `org/name@revision`, rather than as a path or another name."""
    return isinstance(name, str) and _LOOKS_LIKE_ID.fullmatch(name) is not None


def has_prefix(name: str) -> bool:
    """Whether a string says itself that it is an id, `hf-hub:org/name`."""
    return name.startswith(_PREFIX)


def split_id(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """`org/name@revision` or `hf-hub:org/name@revision` (timm's ways of writing it) -> `org/name` and the revision.

    Raises:
        HubError: the id is malformed, or two different revisions are asked for.
    """
    repo_id, _, wanted = name.removeprefix(_PREFIX).partition("@")
    if wanted and revision is not None and wanted != revision:
        raise HubError(f"{name!r} asks for revision {wanted!r}, and revision is {revision!r}: leave one of them out")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise HubError(f"{name!r} is no id of a repository, expected org/name: {first_line(error)}") from None
    revision = wanted or revision
    if revision is not None and not _REVISION.fullmatch(revision):
        raise HubError(f"{revision!r} is no name of a branch, tag or commit of {repo_id}")
    return repo_id, revision
