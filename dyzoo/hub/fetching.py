"""Files of one commit, from the cache where they are there."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import RevisionNotFoundError

from dyzoo import __version__
from dyzoo.errors import CheckpointError, DyzooError, HubError
from dyzoo.files import write_text
from dyzoo.hub.failures import FAILURES, FULL_DISK, cause, explain, is_absent, is_offline, missing_file, status
from dyzoo.hub.ids import COMMIT, Token, split_id

# from its version 2 on huggingface_hub goes on by itself where a file broke off; before, the next call does
_ATTEMPTS = 5 if huggingface_hub.__version__.split(".")[0] in ("0", "1") else 1


def download(
    repo_id: str,
    names: Sequence[str],
    *,
    revision: str | None = None,
    token: Token = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> list[Path]:
    """Files of one commit of a model repository, from the cache where they are there.

    What a branch or tag stands for is asked once, so that all files are of the same commit; without network it is what
    it stood for when the cache was filled. A broken connection is taken up again where it broke; a file enters the
    cache when it is whole.

    Args:
        repo_id: org/name.
        names: files to fetch, folders with "/".
        revision: branch, tag or commit; None: main.
        token: see `Token`.
        cache_dir: in place of huggingface_hub's.
        local_files_only: never ask the Hub.
        force_download: fetch again what the cache holds.

    Raises:
        HubError: no such repository or revision, no access, or neither network nor cache.
        CheckpointError: the repository has no such file, or a file is not what the Hub says it should be.
    """
    repo_id, revision = split_id(repo_id, revision)
    if local_files_only and force_download:
        raise HubError("force_download=True needs the Hub, local_files_only=True forbids it: leave one of them out")
    if cache_dir is not None:
        cache_dir = Path(cache_dir).expanduser()
    source = _Source(repo_id, revision, token, cache_dir, local_files_only, force_download)
    commit = source.commit(names[0])
    paths = [source.fetch(name, commit) for name in names]
    for name, path in zip(names, paths, strict=True):
        _check_blob(path, repo_id, name, commit)
    source.remember(commit, _snapshot(paths[0], names[0]))
    return paths


@dataclass
class _Source:
    """A repository at a revision, and where its files may come from."""

    repo_id: str
    revision: str | None
    token: Token
    cache_dir: str | Path | None
    local_files_only: bool
    force_download: bool
    answered: bool = False  # the Hub has, to an earlier question

    def commit(self, name: str) -> str:
        """The commit that the revision stands for: now, or if the Hub does not say, when the cache was filled."""
        if self.revision is not None and COMMIT.fullmatch(self.revision):
            return self.revision
        cached = self._cached(name, self.revision)
        if not self.local_files_only:
            try:
                return self._ask(name, self.revision)
            except FAILURES as error:
                final = self.force_download or isinstance(error, RevisionNotFoundError) or is_absent(error)
                if cached is None or final:
                    raise self._explain(error, name) from error
        if cached is None:
            raise self._not_cached(name)
        return _snapshot(cached, name).name

    def fetch(self, name: str, commit: str) -> Path:
        """One file of the commit."""
        cached = self._cached(name, commit)
        if cached is not None and not self.force_download:
            return cached
        if self.local_files_only:
            raise self._not_cached(name)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                if not self.answered:
                    self._ask(name, commit)
                return Path(
                    hf_hub_download(
                        self.repo_id,
                        name,
                        cache_dir=self.cache_dir,
                        revision=commit,
                        token=self.token,
                        force_download=self.force_download,
                        library_name="dyzoo",
                        library_version=__version__,
                    )
                )
            except FAILURES as error:
                if attempt == _ATTEMPTS or not self._broke_off(error):
                    raise self._explain(error, name) from error
        raise AssertionError("the last attempt returns or raises")

    def remember(self, commit: str, snapshot: Path) -> None:
        """Let the cache say what the revision stood for, once all files of the commit are in it."""
        revision = self.revision or constants.DEFAULT_REVISION
        if self.answered and revision != commit:
            with suppress(OSError):  # the cache may be read-only
                write_text(snapshot.parents[1] / "refs" / revision, commit)

    def _cached(self, name: str, revision: str | None) -> Path | None:
        path = try_to_load_from_cache(self.repo_id, name, self.cache_dir, revision)
        return Path(path) if isinstance(path, str) else None

    def _ask(self, name: str, revision: str | None) -> str:
        """The commit, by one question: hf_hub_download repeats one that stays unanswered for half a minute and more."""
        url = hf_hub_url(self.repo_id, name, revision=revision)
        commit = get_hf_file_metadata(url, token=self.token, timeout=constants.HF_HUB_ETAG_TIMEOUT).commit_hash
        if commit is None or not COMMIT.fullmatch(commit):
            raise OSError(f"{url} is answered, but not by a Hub: check HF_ENDPOINT and the proxy")
        self.answered = True
        return commit

    def _explain(self, error: Exception, name: str) -> DyzooError:
        repo_id, cache = self.repo_id, self.cache_dir or constants.HF_HUB_CACHE
        if is_absent(error):
            return missing_file(repo_id, name, self._others())
        if is_offline(error):
            if self.force_download:
                return HubError(f"HF_HUB_OFFLINE is set, and force_download=True needs {constants.ENDPOINT}: drop one")
            return self._not_cached(name)
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            return HubError(f"{cache}: no room for {name} of {repo_id} ({error.strerror}): free some, or set HF_HOME")
        if self._broke_off(error):
            return HubError(f"the download of {name} from {repo_id} broke off ({cause(error)}): try again")
        why = "force_download=True asks for it" if self.force_download else f"{name} is not in the cache"
        return explain(error, repo_id, self.revision, f", and {why}")

    def _not_cached(self, name: str) -> HubError:
        at = f" at {self.revision!r}" if self.revision else ""
        cache = self.cache_dir or constants.HF_HUB_CACHE
        why = "local_files_only=True" if self.local_files_only else "HF_HUB_OFFLINE is set"
        return HubError(f"{name} of {self.repo_id}{at} is not in the cache ({cache}), and {why}: fetch it online first")

    def _broke_off(self, error: Exception) -> bool:
        """Whether the connection failed once the Hub had answered."""
        return self.answered and status(error) is None and getattr(error, "strerror", None) is None

    def _others(self) -> list[str]:
        try:
            return HfApi(token=self.token).list_repo_files(self.repo_id, revision=self.revision)
        except FAILURES:  # the file's absence is what matters
            return []


def _snapshot(path: Path, name: str) -> Path:
    """The commit's folder in the cache: <cache>/models--org--name/snapshots/<commit>/<name>."""
    return path.parents[name.count("/")]


def _check_blob(path: Path, repo_id: str, name: str, commit: str) -> None:
    """Compare a large file with the sha256 it is cached under, which is the Hub's own; small ones have git's name."""
    blob = path.readlink().name if path.is_symlink() else ""
    if re.fullmatch(r"[0-9a-f]{64}", blob) and sha256(path) != blob:
        raise CheckpointError(
            f"{name} of {repo_id} is damaged (its sha256 is not the Hub's): {mend_hint(repo_id, commit)}"
        )


def mend_hint(repo_id: str, revision: str | None = None) -> str:
    """How to replace a bad file of the cache."""
    at = f" --revision {revision}" if revision else ""
    return f"fetch it again with force_download=True, or `hf download {repo_id}{at} --force-download`"


def sha256(path: Path) -> str:
    """Hex digest of a file's content, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
