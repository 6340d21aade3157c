"""Files of one commit, from the cache where they are there."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import (
    HfApi,
    HfFileMetadata,
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import RevisionNotFoundError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import WeakFileLock, build_hf_headers

from dyzoo._version import __version__
from dyzoo.errors import CheckpointError, DyzooError, DyzooWarning, HubError
from dyzoo.files import git_hash, sha256, write_text
from dyzoo.hub import transfer
from dyzoo.hub.failures import (
    FAILURES,
    FULL_DISK,
    READ_ONLY,
    cause,
    explain,
    is_absent,
    is_offline,
    missing_file,
    status,
)
from dyzoo.hub.ids import COMMIT, Token, split_id
from dyzoo.hub.patience import OutOfPatienceError, Patience

_ETAG = re.compile(r"[\w-][\w.=-]{0,127}", re.ASCII)  # becomes the name of a file

_KEPT = "what has come is kept"


class StaleCacheWarning(DyzooWarning):
    """An older version from the cache is used, as the cache may not be written."""


def download(
    repo_id: str,
    names: Sequence[str],
    *,
    revision: str | None = None,
    token: Token = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    most_bytes: int | None = None,
) -> list[Path]:
    """Files of one commit of a model repository, from the cache where they are there.

    What a branch or tag stands for is asked once, so that all files are of the same commit; without network it is what
    it stood for when the cache was filled, and with a `StaleCacheWarning` where the cache may not be written. A broken
    connection is taken up again where it broke, in a later call too; a file enters the cache when it is whole. How long
    the Hub is waited for in all is `Patience`'s.

    Args:
        repo_id: org/name.
        names: files to fetch, folders with "/".
        revision: branch, tag or commit; None: main.
        token: see `Token`.
        cache_dir: in place of huggingface_hub's.
        local_files_only: never ask the Hub.
        force_download: fetch again what the cache holds.
        most_bytes: that a file may have; None: any number.

    Raises:
        HubError: no such repository or revision, no access, neither network nor cache, or no end in time.
        CheckpointError: the repository has no such file, or a file is too large or not what the Hub says it should be.
    """
    repo_id, revision = split_id(repo_id, revision)
    if local_files_only and force_download:
        raise HubError("force_download=True needs the Hub, local_files_only=True forbids it: leave one of them out")
    if cache_dir is not None:
        cache_dir = Path(cache_dir).expanduser()
    source = _Source(repo_id, revision, token, cache_dir, local_files_only, force_download, Patience(), most_bytes)
    commit = source.commit(names[0])
    try:
        paths = [source.fetch(name, commit) for name in names]
    except HubError as error:
        older = source.older(names)
        if older is None or getattr(error.__cause__, "errno", None) not in READ_ONLY:
            raise
        used = _snapshot(older[0], names[0]).name
        text = f"{error}: commit {used[:12]} of {repo_id} is used, which is there, and not {commit[:12]}"
        warnings.warn(text, StaleCacheWarning, stacklevel=2)
        return older
    for name, path in zip(names, paths, strict=True):
        _check_blob(path, repo_id, name, commit)
    source.remember(commit, _snapshot(paths[0], names[0]))
    return paths


def is_cached(repo_id: str, names: Sequence[str], *, revision: str | None = None) -> bool:
    """Whether huggingface_hub's cache holds these files of a repository; nothing is asked of the Hub."""
    return all(isinstance(try_to_load_from_cache(repo_id, name, revision=revision), str) for name in names)


@dataclass
class _Source:
    """A repository at a revision, and where its files may come from."""

    repo_id: str
    revision: str | None
    token: Token
    cache_dir: str | Path | None
    local_files_only: bool
    force_download: bool
    patience: Patience
    most_bytes: int | None = None
    answered: bool = False  # the Hub has, to an earlier question

    def commit(self, name: str) -> str:
        """The commit that the revision stands for: now, or if the Hub does not say, when the cache was filled."""
        if self.revision is not None and COMMIT.fullmatch(self.revision):
            return self.revision
        cached = self._cached(name, self.revision)
        if not self.local_files_only:
            try:
                return self._ask(name, self.revision)[0]
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
        try:
            return self._download(name, commit)
        except FAILURES as error:
            raise self._explain(error, name) from error

    def older(self, names: Sequence[str]) -> list[Path] | None:
        """Files of the commit that the cache says the revision stands for, None where it lacks any."""
        paths = [self._cached(name, self.revision) for name in names]
        return None if self.force_download or None in paths else paths  # type: ignore[return-value]

    def remember(self, commit: str, snapshot: Path) -> None:
        """Let the cache say what the revision stood for, once all files of the commit are in it."""
        revision = self.revision or constants.DEFAULT_REVISION
        if self.answered and revision != commit:
            with suppress(OSError):  # the cache may be read-only
                write_text(snapshot.parents[1] / "refs" / revision, commit)

    def _cached(self, name: str, revision: str | None) -> Path | None:
        path = try_to_load_from_cache(self.repo_id, name, self.cache_dir, revision)
        return Path(path) if isinstance(path, str) else None

    def _ask(self, name: str, revision: str | None) -> tuple[str, HfFileMetadata]:
        """The commit, and what the Hub says of a file of it, by one question.

        hf_hub_download repeats one that stays unanswered for half a minute and more.
        """
        url, timeout = hf_hub_url(self.repo_id, name, revision=revision), constants.HF_HUB_ETAG_TIMEOUT
        file = self.patience.run(lambda: get_hf_file_metadata(url, token=self.token, timeout=timeout))
        commit = file.commit_hash
        if commit is None or not COMMIT.fullmatch(commit) or file.size is None or not _ETAG.fullmatch(file.etag or ""):
            raise OSError(f"{url} is answered, but not by a Hub: check HF_ENDPOINT and the proxy")
        self.answered = True
        return commit, file

    def _download(self, name: str, commit: str) -> Path:
        """Put a file's content where huggingface_hub's cache has it, and let huggingface_hub link it."""
        file = self._ask(name, commit)[1]
        if self.most_bytes is not None and int(file.size or 0) > self.most_bytes:
            raise transfer.WrongSizeError(f"it has {file.size} bytes, expected at most {self.most_bytes}")
        cache = Path(self.cache_dir or constants.HF_HUB_CACHE)
        folder = repo_folder_name(repo_id=self.repo_id, repo_type="model")
        content, lock = cache / folder / "blobs" / str(file.etag), cache / ".locks" / folder / f"{file.etag}.lock"
        part = content.with_name(f"{content.name}.incomplete")
        headers = build_hf_headers(token=self.token, library_name="dyzoo", library_version=__version__)
        for path in (content, lock):
            path.parent.mkdir(parents=True, exist_ok=True)

        def transferred() -> None:
            with WeakFileLock(lock):
                if self.force_download:
                    part.unlink(missing_ok=True)
                elif content.exists():
                    return
                url = hf_hub_url(self.repo_id, name, revision=commit)
                transfer.fetch(url, headers, part, int(file.size or 0), name, self.patience)
                part.replace(content)
                old = self._cached(name, commit)
                if old is not None and not old.is_symlink():
                    old.unlink()  # a copy, where there are no symlinks

        def linked() -> str:
            return hf_hub_download(self.repo_id, name, revision=commit, cache_dir=cache, token=self.token)

        self.patience.run(transferred)
        return Path(self.patience.run(linked))

    def _explain(self, error: Exception, name: str) -> DyzooError:
        repo_id, cache = self.repo_id, self.cache_dir or constants.HF_HUB_CACHE
        if is_absent(error):
            return missing_file(repo_id, name, self._others())
        if is_offline(error):
            if self.force_download:
                return HubError(f"HF_HUB_OFFLINE is set, and force_download=True needs {constants.ENDPOINT}: drop one")
            return self._not_cached(name)
        if isinstance(error, transfer.WrongSizeError | transfer.RedirectionError):
            return CheckpointError(f"{name} of {repo_id} cannot be fetched: {error}")
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            return HubError(f"{cache}: no room for {name} of {repo_id} ({error.strerror}): free some, or set HF_HOME")
        if isinstance(error, OutOfPatienceError):
            return HubError(
                f"{constants.ENDPOINT} does not give {name} of {repo_id} ({error}): try again later, {_KEPT}"
            )
        if isinstance(error, OSError) and error.errno in READ_ONLY:
            return HubError(f"{cache}: {name} of {repo_id} cannot be written ({error.strerror})")
        if self._broke_off(error):
            return HubError(f"the download of {name} from {repo_id} broke off ({cause(error)}): try again, {_KEPT}")
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
    """Compare a file with the hash that it is cached under: the Hub's sha256 of a large one, git's name of a small."""
    blob = path.readlink().name if path.is_symlink() else ""
    if re.fullmatch(r"[0-9a-f]{64}", blob):
        is_right = sha256(path) == blob
    elif re.fullmatch(r"[0-9a-f]{40}", blob):
        is_right = git_hash(path) == blob
    else:
        return
    if not is_right:
        kind = "sha256" if len(blob) == 64 else "git hash"
        raise CheckpointError(
            f"{name} of {repo_id} is damaged (its {kind} is not the Hub's): {mend_hint(repo_id, commit)}"
        )


def mend_hint(repo_id: str, revision: str | None = None) -> str:
    """How to replace a bad file of the cache."""
    at = f" --revision {revision}" if revision else ""
    return f"fetch it again with force_download=True, or `hf download {repo_id}{at} --force-download`"
