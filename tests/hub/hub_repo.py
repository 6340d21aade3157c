"""The repositories of the loopback Hub: commits, branches and tags in memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

Tree = dict[str, bytes]  # path -> content


@dataclass(frozen=True)
class Commit:
    """One state of a repository."""

    sha: str
    message: str
    tree: Tree


@dataclass
class Repo:
    """The history of one repository and who may see it.

    Attributes:
        branches: every commit of each, oldest first; pull requests are branches `refs/pr/N`.
        tags: name -> sha.
        private: others than the owner are told that there is no such repository.
        gated: others than the owner see that it is there, and cannot download from it.
    """

    branches: dict[str, list[Commit]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def __post_init__(self) -> None:
        self.commit("main", {}, "initial commit")

    def commit(self, branch: str, tree: Tree, message: str) -> str:
        """Add a commit to a branch, which is made if absent; gives its sha."""
        history = self.branches.setdefault(branch, [])
        number = sum(map(len, self.branches.values()))
        content = repr((number, message, sorted((path, git_oid(blob)) for path, blob in tree.items())))
        commit = Commit(hashlib.sha1(content.encode()).hexdigest(), message, dict(tree))
        history.append(commit)
        return commit.sha

    def at(self, revision: str = "main") -> Commit:
        """The commit that a branch, a tag or a sha names."""
        if revision in self.branches:
            return self.branches[revision][-1]
        sha = self.tags.get(revision, revision)
        for commit in (commit for history in self.branches.values() for commit in history):
            if commit.sha == sha:
                return commit
        raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")


class Refusal(Exception):
    """An answer that is no success: status, `X-Error-Code` and message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def git_oid(blob: bytes) -> str:
    """git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()
