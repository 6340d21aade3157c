"""Failures of the Hub, each as one line that says what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from dyzoo.errors import CheckpointError, DyzooError, HubError, first_line
from dyzoo.text import printable

PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl", ".pickle")
"""Suffixes of weights that run code when they are loaded, if their author wants that."""

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of an OSError that mean: nothing more can be written."""
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
"""Numbers of an OSError that mean: nothing may be written."""

_SAID_AT_MOST = 300  # characters of what others say
_TRANSIENT = (408, 429, 500, 502, 503, 504)  # statuses that another try may better

# huggingface_hub's HTTP library changed twice; its errors share a base with HfHubHTTPError, or are OSErrors (requests)
_HTTP_ERROR = cast("type[Exception]", HfHubHTTPError.__bases__[0])
FAILURES: tuple[type[Exception], ...] = (_HTTP_ERROR, EntryNotFoundError, OSError, ValueError, RuntimeError)
"""Exceptions that huggingface_hub raises, in all its versions."""


def missing_file(place: str, name: str, others: Sequence[str]) -> CheckpointError:
    """The error for a place (folder or repository) without `name` that holds `others`."""
    if pickles := sorted(other for other in others if other.endswith(PICKLES)):
        found = printable(", ".join(pickles[:3]))
        return CheckpointError(
            f"{place} has no {name}, only {found}: pickled files can run code and are not loaded; "
            "`dyzoo convert` turns weights that you trust into safetensors"
        )
    return CheckpointError(f"{place} has no {name}, expected a detector written by save_pretrained or push_to_hub")


@contextmanager
def one_line_errors(repo_id: str, revision: str | None = None) -> Iterator[None]:
    """Turn what huggingface_hub raises into `explain`'s."""
    try:
        yield
    except DyzooError:
        raise
    except FAILURES as error:
        raise explain(error, repo_id, revision) from error


def explain(error: Exception, repo_id: str, revision: str | None, otherwise: str = "") -> HubError:
    """The error of any action on a repository; `otherwise` follows on why it needed the Hub."""
    hub = constants.ENDPOINT
    answer = status(error)
    if isinstance(error, GatedRepoError):
        return HubError(f"{repo_id} is gated: ask for access on {hub}/{repo_id}, then {LOG_IN}")
    if isinstance(error, RepositoryNotFoundError):
        return HubError(f"{hub} has no repository {repo_id!r}, or it is private: check the name, or {LOG_IN}")
    if isinstance(error, RevisionNotFoundError):
        return HubError(f"{repo_id} has no branch, tag or commit {revision!r}: {hub}/{repo_id}/commits shows them")
    if is_offline(error):
        return HubError(f"HF_HUB_OFFLINE is set, and {repo_id} needs {hub}: unset it")
    if isinstance(error, LocalTokenNotFoundError) or answer == 401:
        return HubError(f"{hub} does not accept the token for {repo_id}, or there is none: {LOG_IN}")
    if answer == 403:
        return HubError(f"your token may not do this to {repo_id} ({_server_says(error)}): {LOG_IN}")
    if answer is not None:
        return HubError(f"{hub} answers {answer} for {repo_id} ({_server_says(error)}): try again later")
    if isinstance(error, OSError) and error.strerror and error.filename:
        return HubError(f"{error.filename}: {error.strerror}")
    if not isinstance(error, _HTTP_ERROR | OSError):
        return HubError(f"{hub} and {repo_id}: {_server_says(error)}")
    return HubError(f"{hub} cannot be reached for {repo_id} ({cause(error)}){otherwise}: check the network, try again")


def status(error: Exception) -> int | None:
    """The HTTP status that the Hub answered with, None if it did not answer."""
    return getattr(getattr(error, "response", None), "status_code", None)


def is_offline(error: BaseException | None) -> bool:
    """Whether HF_HUB_OFFLINE is what lies behind an error."""
    while error is not None and not isinstance(error, OfflineModeIsEnabled):
        error = error.__cause__
    return error is not None


def is_absent(error: Exception) -> bool:
    """Whether the Hub says that it has no such file, rather than the cache."""
    return isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)


def is_transient(error: Exception) -> bool:
    """Whether another try may end otherwise: the connection failed, or the Hub is busy."""
    answer = status(error)
    if answer is not None:
        return answer in _TRANSIENT
    is_of_network = isinstance(error, _HTTP_ERROR | OSError) and getattr(error, "strerror", None) is None
    return is_of_network and not is_offline(error)


def retry_after(error: Exception) -> float:
    """Seconds that the Hub asks to wait, 0 where it does not."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    text = str(headers.get("Retry-After", "")).strip()
    return float(text[:9]) if text.isascii() and text.isdigit() else 0.0


def _server_says(error: Exception) -> str:
    """One line of what the Hub says, which may be anybody."""
    said = str(getattr(error, "server_message", None) or first_line(error))
    return printable(" ".join(said.split()))[:_SAID_AT_MOST]


def cause(error: Exception) -> str:
    """The innermost reason: outer ones speak of retries and of the cache."""
    inner: BaseException = error
    while (deeper := inner.__cause__ or (None if inner.__suppress_context__ else inner.__context__)) is not None:
        inner = deeper
    return printable(first_line(cast(Exception, inner)) if str(inner) else type(inner).__name__)[:_SAID_AT_MOST]
