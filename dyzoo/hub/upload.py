"""Repositories of models and of Spaces, their branches, and commits to them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, constants, get_token, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

from dyzoo._version import __version__
from dyzoo.errors import HubError
from dyzoo.hub.failures import LOG_IN, is_absent, one_line_errors
from dyzoo.hub.ids import Token, split_id
from dyzoo.hub.patience import Patience

RepoType = Literal["model", "space"]


def require_token(token: Token = None) -> None:
    """Make sure that there is a token to write with, without asking the Hub whether it is good.

    Raises:
        HubError: there is none.
    """
    if token is False or not (token if isinstance(token, str) else get_token()):
        raise HubError(f"pushing to {constants.ENDPOINT} needs a token, and there is none: {LOG_IN}")


def prepare_repo(
    repo_id: str,
    *,
    private: bool | None = None,
    private_if_new: bool | None = None,
    token: Token = None,
    branch: str | None = None,
    space_sdk: str | None = None,
) -> tuple[str, bool]:
    """Make a repository of a model or a Space, and a branch of it, where they are not there yet.

    Args:
        repo_id: org/name; a name alone means the user's own.
        private: who may see a new repository; None: as `private_if_new`.
        private_if_new: the same, without an objection to a public one that is there; None: the account's default.
        token: see `Token`.
        branch: None: main.
        space_sdk: what a Space is made with; None: it is a model's repository.

    Returns:
        The full id, and whether the repository is new.

    Raises:
        HubError: it may not be made, or `private` is asked for one that is public already.
    """
    repo_id, branch = split_id(repo_id, branch)
    with one_line_errors(repo_id):
        return Patience().run(lambda: _prepare_repo(_api(token), repo_id, private, private_if_new, branch, space_sdk))


def _prepare_repo(
    api: HfApi, repo_id: str, private: bool | None, private_if_new: bool | None, branch: str | None, sdk: str | None
) -> tuple[str, bool]:
    kind: RepoType = "model" if sdk is None else "space"
    if "/" not in repo_id:
        repo_id = split_id(f"{api.whoami()['name']}/{repo_id}")[0]
    try:
        info = api.repo_info(repo_id, repo_type=kind, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        is_private, is_new = info.private, False
    except RepositoryNotFoundError:
        is_private, is_new = private_if_new if private is None else private, True
        api.create_repo(repo_id, repo_type=kind, space_sdk=sdk, private=is_private, exist_ok=True)
    if private and not is_private:
        raise HubError(
            f"{repo_id} is there already and public: make it private on "
            f"{constants.ENDPOINT}/{'' if sdk is None else 'spaces/'}{repo_id}/settings, or push to another name"
        )
    if branch is not None and not branch.startswith("refs/"):
        api.create_branch(repo_id, branch=branch, exist_ok=True)
    return repo_id, is_new


def is_private(repo_id: str, *, token: Token = None) -> bool:
    """Whether others than its owners cannot see a model's repository. Raises `HubError`: it cannot be asked."""
    with one_line_errors(repo_id):
        return bool(
            Patience().run(lambda: _api(token).model_info(repo_id, timeout=constants.HF_HUB_ETAG_TIMEOUT).private)
        )


def read_text(
    repo_id: str, name: str, *, revision: str | None = None, token: Token = None, repo_type: RepoType = "model"
) -> str | None:
    """A text file of a repository as it is there now, None if there is none."""

    def download() -> str:
        return hf_hub_download(repo_id, name, repo_type=repo_type, revision=revision, token=token, cache_dir=folder)

    # not into the user's cache: its branches must stand for commits whose weights are there too
    with one_line_errors(repo_id, revision), TemporaryDirectory() as folder:
        try:
            path = Path(Patience().run(download))
        except EntryNotFoundError as error:
            if is_absent(error):
                return None
            raise
        return path.read_text(encoding="utf-8", errors="replace")


def commit(
    repo_id: str,
    files: Mapping[str, Path],
    message: str,
    *,
    token: Token = None,
    revision: str | None = None,
    create_pr: bool = False,
    repo_type: RepoType = "model",
) -> CommitInfo:
    """Put files into a repository in one commit; those that are there unchanged are not sent again.

    Raises:
        HubError: the Hub refuses them or cannot be reached, and the repository is as it was then; or it does not answer
            in time, and the commit may still come.
    """
    operations = [CommitOperationAdd(name, path) for name, path in files.items()]
    patience = Patience()
    patience.earn(sum(path.stat().st_size for path in files.values()))

    def create() -> CommitInfo:
        return _api(token).create_commit(
            repo_id,
            operations,
            commit_message=message,
            repo_type=repo_type,
            revision=revision,
            create_pr=create_pr,
        )

    with one_line_errors(repo_id, revision):
        return patience.run(create)


def _api(token: Token) -> HfApi:
    return HfApi(token=token, library_name="dyzoo", library_version=__version__)
