"""A small Hugging Face Hub on the loopback interface: branches and tags in memory, and faults on demand.

Only the standard library. It speaks what `huggingface_hub` needs to create repositories, commit, list and download:
files of any size inside a commit, or through basic LFS above `lfs_threshold` bytes (`HF_HUB_DISABLE_XET=1` then).
Answers for missing, private and gated repositories are those of the real Hub: status, `X-Error-Code`, message.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub.hub_faults import Faults
from tests.hub.hub_repo import Refusal, Repo, Tree, git_oid

URL_PREFIXES = {"models": "", "datasets": "datasets/", "spaces": "spaces/", "kernels": "kernels/"}

FORBIDDEN = "You don't have the rights to do this"


class Hub(Faults, ThreadingHTTPServer):
    """The server; `with Hub() as hub:` runs it in a thread.

    Args:
        lfs_threshold: files of more bytes go through LFS, as on the real Hub; None: none do.

    Attributes:
        url: for `HF_ENDPOINT`.
        token: of the owner of every repository; `stranger_token` belongs to somebody else.
        repos: (kind, id) -> repository; kinds are models, datasets, spaces, kernels.
        requests: "METHOD /path" of all that was asked about repositories, in order.
    """

    daemon_threads = True

    def __init__(self, lfs_threshold: int | None = None) -> None:
        Faults.__init__(self)
        ThreadingHTTPServer.__init__(self, ("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.token, self.stranger_token = "hf_owner", "hf_stranger"
        self.lfs_threshold = lfs_threshold
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.lock = threading.RLock()

    def __enter__(self) -> Hub:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.shutdown()
        self.server_close()

    def repo(self, repo_id: str, kind: str = "models") -> Repo:
        """The repository; made if absent."""
        with self.lock:
            return self.repos.setdefault((kind, repo_id), Repo())

    def add(self, repo_id: str, files: Mapping[str, bytes], branch: str = "main", kind: str = "models") -> str:
        """Commit files to a branch; gives the commit's sha."""
        repo = self.repo(repo_id, kind)
        with self.lock:
            tree = repo.at(branch).tree if branch in repo.branches else {}
            return repo.commit(branch, {**tree, **files}, "add files")

    def files(self, repo_id: str, revision: str = "main", kind: str = "models") -> Tree:
        """Files of a repository."""
        return dict(self.repo(repo_id, kind).at(revision).tree)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None:
        """Silent."""

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        self.query, body = parse_qs(parts.query), self._body()
        path = unquote(parts.path)
        with self.server.lock:
            try:
                for methods, pattern, action in _ROUTES:
                    match = re.fullmatch(pattern, path)
                    if match and self.command in methods:
                        self.server.requests.append(f"{self.command} {path}")
                        return action(self, body, **{name: value for name, value in match.groupdict().items() if value})
                raise Refusal(404, "", f"no route {self.command} {path}")
            except Refusal as refusal:
                headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
                sent = {name: value for name, value in headers.items() if value and value.isprintable()}
                self._send(refusal.status, {"error": refusal.message}, sent)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(
        self,
        status: int,
        content: Any = b"",
        headers: Mapping[str, str] | None = None,
        drop: int = -1,
        how: str = "close",
    ) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        with suppress(ConnectionError):  # the client may have had enough
            self.wfile.write(body if drop < 0 else body[:drop])
            while 0 <= drop < len(body) and how == "trickle" and not self.server.stopped.wait(0.05):
                self.wfile.write(body[drop : drop + 1])
                drop += 1
        if drop >= 0:
            self.close_connection = True
            if how == "reset":  # nothing lingers
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

    # who asks, and for what

    def _is_owner(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.server.token}"

    def _check_owner(self) -> None:
        if self._is_owner():
            return
        if self._is_known():
            raise Refusal(403, "", FORBIDDEN)
        raise Refusal(401, "", "Invalid username or password.")

    def _is_known(self) -> bool:
        """Whether a token came; one that nobody has is refused."""
        authorization = self.headers.get("Authorization")
        known = [f"Bearer {token}" for token in (self.server.token, self.server.stranger_token)]
        if authorization not in (None, *known):
            raise Refusal(401, "", "Invalid credentials in Authorization header")
        return authorization is not None

    def _repo(self, kind: str, repo_id: str) -> Repo:
        known, repo = self._is_known(), self.server.repos.get((kind, repo_id))
        if repo is None or (repo.private and not self._is_owner()):
            raise Refusal(404 if known else 401, "RepoNotFound", "Repository not found")
        return repo

    def _tree(self, kind: str, repo_id: str, revision: str) -> Tree:
        return self._repo(kind, repo_id).at(revision).tree

    def _is_lfs(self, size: int) -> bool:
        return self.server.lfs_threshold is not None and size > self.server.lfs_threshold

    def _etag(self, blob: bytes) -> str:
        return hashlib.sha256(blob).hexdigest() if self._is_lfs(len(blob)) else git_oid(blob)

    def _entry(self, path: str, blob: bytes) -> dict[str, Any]:
        entry = {"type": "file", "path": path, "size": len(blob), "oid": git_oid(blob)}
        if self._is_lfs(len(blob)):
            entry["lfs"] = {"oid": hashlib.sha256(blob).hexdigest(), "size": len(blob), "pointerSize": 130}
        return entry

    # accounts and repositories

    def _whoami(self, body: bytes) -> None:
        if not self._is_known():
            raise Refusal(401, "", "Invalid username or password.")
        token = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}}
        self._send(200, {"type": "user", "name": "owner", "fullname": "Owner", "orgs": [], "auth": token})

    def _organization(self, body: bytes, name: str) -> None:
        self._send(200, {"name": name, "fullname": name, "avatarUrl": "", "trustedKernelPublisher": False})

    def _create_repo(self, body: bytes) -> None:
        self._check_owner()
        wanted = json.loads(body)
        kind, repo_id = f"{wanted.get('type') or 'model'}s", f"{wanted.get('organization') or 'owner'}/{wanted['name']}"
        answer = {"url": f"{self.server.url}/{URL_PREFIXES[kind]}{repo_id}", "name": repo_id, "id": repo_id}
        if (kind, repo_id) in self.server.repos:
            return self._send(409, {**answer, "error": "You already created this repo"})
        private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        self.server.repos[kind, repo_id] = Repo(private=private)
        self._send(200, answer)

    def _delete_repo(self, body: bytes) -> None:
        self._check_owner()
        wanted = json.loads(body)
        kind, repo_id = f"{wanted.get('type') or 'model'}s", f"{wanted.get('organization') or 'owner'}/{wanted['name']}"
        self._repo(kind, repo_id)
        del self.server.repos[kind, repo_id]
        self._send(200, {})

    def _info(self, body: bytes, kind: str, repo_id: str, revision: str = "main") -> None:
        repo = self._repo(kind, repo_id)
        commit = repo.at(revision)
        about = {"_id": "0" * 24, "id": repo_id, "sha": commit.sha, "private": repo.private, "tags": [], "likes": 0}
        files = [{"rfilename": path} for path in sorted(commit.tree)]
        self._send(200, {**about, "modelId": repo_id, "downloads": 0, "gated": repo.gated, "siblings": files})

    def _refs(self, body: bytes, kind: str, repo_id: str) -> None:
        repo = self._repo(kind, repo_id)
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": history[-1].sha}
            for name, history in repo.branches.items()
            if not name.startswith("refs/")
        ]
        tags = [{"name": name, "ref": f"refs/tags/{name}", "targetCommit": sha} for name, sha in repo.tags.items()]
        self._send(200, {"branches": branches, "tags": tags, "converts": []})

    def _create_branch(self, body: bytes, kind: str, repo_id: str, revision: str) -> None:
        self._check_owner()
        repo = self._repo(kind, repo_id)
        if revision in repo.branches:
            raise Refusal(409, "", f"Reference {revision} already exists")
        start = json.loads(body or b"{}").get("startingPoint") or "main"
        repo.branches[revision] = [repo.at(start)]
        self._send(200, {})

    def _create_tag(self, body: bytes, kind: str, repo_id: str, revision: str) -> None:
        self._check_owner()
        repo = self._repo(kind, repo_id)
        repo.tags[json.loads(body)["tag"]] = repo.at(revision).sha
        self._send(200, {})

    def _list_tree(self, body: bytes, kind: str, repo_id: str, revision: str, folder: str = "") -> None:
        prefix = f"{folder}/" if folder else ""
        deep = self.query.get("recursive", ["false"])[0].lower() == "true"
        files, folders = [], set()
        for path, blob in sorted(self._tree(kind, repo_id, revision).items()):
            if path.startswith(prefix) and (deep or "/" not in path[len(prefix) :]):
                files.append(self._entry(path, blob))
            elif path.startswith(prefix):
                folders.add(prefix + path[len(prefix) :].split("/")[0])
        if prefix and not files and not folders:
            raise Refusal(404, "EntryNotFound", f"{folder} does not exist on {revision}")
        listed = [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in sorted(folders)]
        self._send(200, listed + files)

    def _paths_info(self, body: bytes, kind: str, repo_id: str, revision: str) -> None:
        tree = self._tree(kind, repo_id, revision)
        paths = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
        self._send(200, [self._entry(path, tree[path]) for path in paths if path in tree])

    # uploading

    def _validate_yaml(self, body: bytes) -> None:
        self._send(200, {"errors": [], "warnings": []})

    def _preupload(self, body: bytes, kind: str, repo_id: str, revision: str) -> None:
        self._check_owner()
        tree = self._tree(kind, repo_id, revision)
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if self._is_lfs(file["size"]) else "regular",
                "shouldIgnore": False,
                "oid": self._etag(tree[file["path"]]) if file["path"] in tree else None,
            }
            for file in json.loads(body)["files"]
        ]
        self._send(200, {"files": files})

    def _lfs_batch(self, body: bytes, repo_id: str, prefix: str = "") -> None:
        self._check_owner()
        objects = []
        for wanted in json.loads(body)["objects"]:
            upload = {"upload": {"href": f"{self.server.url}/_lfs/{wanted['oid']}"}}
            there = wanted["oid"] in self.server.blobs
            objects.append({"oid": wanted["oid"], "size": wanted["size"], **({} if there else {"actions": upload})})
        answer = {"transfer": "basic", "objects": objects}
        self._send(200, answer, {"Content-Type": "application/vnd.git-lfs+json"})

    def _lfs_upload(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refusal(400, "", "sha256 mismatch")
        self.server.blobs[oid] = body
        self._send(200)

    def _commit(self, body: bytes, kind: str, repo_id: str, revision: str) -> None:
        self._check_owner()
        repo = self._repo(kind, repo_id)
        tree, message = dict(repo.at(revision).tree), ""
        for line in body.splitlines():
            operation = json.loads(line)
            what, value = operation["key"], operation["value"]
            if what == "header":
                message = value["summary"]
            elif what == "file":
                tree[value["path"]] = base64.b64decode(value["content"])
            elif what == "lfsFile":
                tree[value["path"]] = self.server.blobs[value["oid"]]
            elif what == "deletedFile":
                tree.pop(value["path"], None)
            elif what == "deletedFolder":
                folder = value["path"].rstrip("/") + "/"
                tree = {path: blob for path, blob in tree.items() if not path.startswith(folder)}
        home, answer = f"{self.server.url}/{URL_PREFIXES[kind]}{repo_id}", {}
        if self.query.get("create_pr") == ["1"]:
            number = 1 + sum(name.startswith("refs/pr/") for name in repo.branches)
            revision, answer = f"refs/pr/{number}", {"pullRequestUrl": f"{home}/discussions/{number}"}
        sha = repo.commit(revision, tree, message)
        self._send(200, {"success": True, "commitOid": sha, "commitUrl": f"{home}/commit/{sha}", **answer})

    # downloading

    def _resolve(self, body: bytes, repo_id: str, revision: str, path: str, prefix: str = "models/") -> None:
        repo = self._repo(prefix.rstrip("/"), repo_id)
        if repo.gated and not self._is_owner():
            why = f"Access to model {repo_id} is restricted and you are not in the authorized list."
            raise Refusal(403 if self._is_known() else 401, "GatedRepo", why)
        commit = repo.at(revision)
        if path not in commit.tree:
            answer = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            return self._send(404, {"error": "Entry not found"}, {**answer, "X-Repo-Commit": commit.sha})
        blob = commit.tree[path]
        etag = self.server.etags.get(path) or self._etag(blob)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
        if self.command == "HEAD":
            return self._send(200, blob, headers)
        if busy := self.server.next_busy(path):
            return self._send(busy.status, {"error": busy.message}, busy.headers)
        sent = self.server.spoilt.get(path, bytes)(blob)
        start, end = 0, len(sent)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if self.server.ranges else None
        if wanted:
            self.server.ranges_asked.append(int(wanted[1]))
            start, end = int(wanted[1]), int(wanted[2] or len(sent) - 1) + 1
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(sent)}"
        self._send(206 if wanted else 200, sent[start:end], headers, *self.server.next_drop(path, start))
        self.server.after_sending.get(path, bool)()


_KIND = r"/api/(?P<kind>models|datasets|spaces|kernels)/(?P<repo_id>[^/]+/[^/]+)"
_PLACE = r"/(?P<prefix>(?:datasets|spaces|kernels)/)?(?P<repo_id>[^/]+/[^/]+)"
_REVISION = r"(?P<revision>refs/pr/\d+|[^/]+)"
_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", r"/api/whoami-v2", _Handler._whoami),
    ("GET", r"/api/organizations/(?P<name>[^/]+)/overview", _Handler._organization),
    ("POST", r"/api/validate-yaml", _Handler._validate_yaml),
    ("POST", r"/api/repos/create", _Handler._create_repo),
    ("DELETE", r"/api/repos/delete", _Handler._delete_repo),
    ("GET", _KIND, _Handler._info),
    ("GET", rf"{_KIND}/revision/{_REVISION}", _Handler._info),
    ("GET", rf"{_KIND}/refs", _Handler._refs),
    ("POST", rf"{_KIND}/branch/(?P<revision>.+)", _Handler._create_branch),
    ("POST", rf"{_KIND}/tag/{_REVISION}", _Handler._create_tag),
    ("GET", rf"{_KIND}/tree/{_REVISION}(?:/(?P<folder>.+))?", _Handler._list_tree),
    ("POST", rf"{_KIND}/paths-info/{_REVISION}", _Handler._paths_info),
    ("POST", rf"{_KIND}/preupload/{_REVISION}", _Handler._preupload),
    ("POST", rf"{_KIND}/commit/{_REVISION}", _Handler._commit),
    ("POST", rf"{_PLACE}\.git/info/lfs/objects/batch", _Handler._lfs_batch),
    ("PUT", r"/_lfs/(?P<oid>[0-9a-f]{64})", _Handler._lfs_upload),
    ("GET HEAD", rf"{_PLACE}/resolve/{_REVISION}/(?P<path>.+)", _Handler._resolve),
]
