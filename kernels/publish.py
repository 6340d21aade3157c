"""Stage dyhead_kernels as a Hugging Face Hub kernel, and push it.

    python kernels/publish.py stage [--out DIR]
    python kernels/publish.py push OWNER/NAME [--revision v1] [--private]

A staged folder holds what the Hub's repository will: README.md, LICENSE, benchmarks/ for `kernels benchmark`, and
build/torch-<backend>/, each variant the whole package and a metadata.json
(https://huggingface.co/docs/kernels/kernel-requirements). Try one with `kernels.get_local_kernel(Path(DIR))`, time it
with `kernels benchmark DIR`. Name, version and backends come from build.toml.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KERNELS = Path(__file__).resolve().parent
PACKAGE = KERNELS / "dyhead_kernels"
LICENSE = KERNELS.parent / "LICENSE"
DEFAULT_OUT = KERNELS.parent / "build" / "dyhead-kernels"
BENCHMARKS = "benchmarks"
STAGED = ("LICENSE", "README.md", BENCHMARKS, "build")  # all that a staged folder holds, sorted
STAGED_BEFORE = tuple(name for name in STAGED if name != BENCHMARKS)  # by version 0.1


class PublishError(Exception):
    """A mistake that a user can set right; its text is one line."""


@dataclass(frozen=True)
class Manifest:
    """Contents of build.toml: `version` counts incompatible changes, `suffixes` are the kinds of file to ship."""

    name: str
    version: int
    license: str
    backends: tuple[str, ...]
    suffixes: tuple[str, ...]

    @classmethod
    def read(cls, path: Path = KERNELS / "build.toml") -> Manifest:
        """Read build.toml.

        Raises:
            PublishError: it is not TOML, or lacks a setting.
        """
        try:
            toml = tomllib.loads(path.read_text(encoding="utf-8"))
            general, suffixes = toml["general"], toml["torch-noarch"]["pyext"]
            return cls(
                general["name"], general["version"], general["license"], tuple(general["backends"]), tuple(suffixes)
            )
        except tomllib.TOMLDecodeError as error:
            raise PublishError(f"{path} is not TOML: {error}") from None
        except KeyError as error:
            raise PublishError(
                f"{path} lacks {error.args[0]!r}, expected it as kernel-builder's documentation says"
            ) from None

    @property
    def revision(self) -> str:
        """The Hub's branch for this version."""
        return f"v{self.version}"


def stage(out: Path, repo_id: str | None = None) -> Path:
    """Write the Hub repository's files to `out`: aside first, then renamed, so that `out` is whole or as it was.

    Args:
        out: made if absent; what an earlier call left there is replaced.
        repo_id: "owner/name" for the card's example; None leaves a placeholder.

    Returns:
        `out`.

    Raises:
        PublishError: `out` holds something else than staged files.
        OSError: it cannot be written.
    """
    manifest = Manifest.read()
    if out.exists() and not (
        out.is_dir() and sorted(path.name for path in out.iterdir()) in ([], [*STAGED], [*STAGED_BEFORE])
    ):
        raise PublishError(
            f"{out} holds other files, expected a new folder or one staged before: name another by --out"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as aside:
        fresh, former = Path(aside) / "fresh", Path(aside) / "former"
        _write(fresh, manifest, repo_id)
        if out.exists():
            out.rename(former)
        try:
            fresh.rename(out)
        except BaseException:
            if former.exists():
                former.rename(out)
            raise
    return out


def _write(folder: Path, manifest: Manifest, repo_id: str | None) -> None:
    sources = sorted(path for path in PACKAGE.rglob("*") if path.suffix[1:] in manifest.suffixes)
    contents = {path.relative_to(PACKAGE).as_posix(): path.read_bytes() for path in sources}
    for backend in manifest.backends:
        variant = folder / "build" / f"torch-{backend}"
        for name, content in contents.items():
            path = variant / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        text = json.dumps(metadata(manifest, backend, contents), indent=2) + "\n"
        (variant / "metadata.json").write_text(text, encoding="utf-8")
    for script in sorted((KERNELS / BENCHMARKS).glob("benchmark*.py")):
        (folder / BENCHMARKS).mkdir(exist_ok=True)
        shutil.copyfile(script, folder / BENCHMARKS / script.name)
    card = (KERNELS / "CARD.md").read_text(encoding="utf-8")
    card = card.replace("{repo_id}", repo_id or f"OWNER/{manifest.name}").replace("{version}", str(manifest.version))
    (folder / "README.md").write_text(card, encoding="utf-8")
    shutil.copyfile(LICENSE, folder / "LICENSE")


def metadata(manifest: Manifest, backend: str, contents: dict[str, bytes]) -> dict[str, object]:
    """`metadata.json` of one variant.

    `id` becomes the name that the package is imported under, and by that the namespace of its operators, so it differs
    with every change of a file: several builds may live in one process.
    """
    digests = {name: hashlib.sha256(content).digest() for name, content in contents.items()}
    whole = hashlib.sha256(b"".join(name.encode() + digest for name, digest in digests.items())).hexdigest()
    return {
        "id": f"_{manifest.name.replace('-', '_')}_{backend}_{whole[:10]}",
        "name": manifest.name,
        "version": manifest.version,
        "license": manifest.license,
        "python-depends": [],
        "backend": {"type": backend},
        "digest": {
            "algorithm": "sha256",
            "files": {name: base64.b64encode(digest).decode() for name, digest in digests.items()},
        },
    }


def push(repo_id: str, revision: str | None = None, private: bool = False) -> str:
    """Stage aside and commit to a branch of a repository of type "kernel", both made if absent.

    `kernels` reads the version's branch alone, to load and to time; the Hub shows main's card, so a card goes there
    with the manifest's own branch. Reads HF_TOKEN and HF_ENDPOINT as huggingface_hub does.

    Args:
        repo_id: "owner/name".
        revision: the branch; None for the manifest's version, "v1".
        private: whether a new repository is private; one that is there stays as it is.

    Returns:
        The commit's address.

    Raises:
        PublishError: `repo_id` is no "owner/name", huggingface_hub has no kernels yet, or the Hub refuses or is away.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    owner, _, name = repo_id.partition("/")
    if not owner or not name or "/" in name:
        raise PublishError(f"the repository is {repo_id!r}, expected OWNER/NAME")
    if not hasattr(constants, "REPO_TYPE_KERNEL"):
        raise PublishError("this huggingface_hub knows no repositories of type kernel: pip install -U huggingface_hub")
    api, revision = HfApi(), revision or Manifest.read().revision
    message = f"Build {revision}"
    with tempfile.TemporaryDirectory() as aside:
        folder = stage(Path(aside) / "staged", repo_id)
        try:
            api.create_repo(repo_id, repo_type="kernel", private=private or None, exist_ok=True)
            api.create_branch(repo_id, repo_type="kernel", branch=revision, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id,
                repo_type="kernel",
                folder_path=folder,
                revision=revision,
                commit_message=message,
                delete_patterns=["build/**", f"{BENCHMARKS}/**"],
            )
            if revision == Manifest.read().revision:
                api.upload_folder(
                    repo_id=repo_id,
                    repo_type="kernel",
                    folder_path=folder,
                    revision="main",
                    commit_message=message,
                    ignore_patterns=["build/**", f"{BENCHMARKS}/**"],
                )
        except HfHubHTTPError as error:
            hint = (
                f": set HF_TOKEN to one that may write to {owner}" if error.response.status_code in (401, 403) else ""
            )
            raise PublishError(f"the Hub refuses{hint} ({error})") from error
        except (OSError, ValueError):
            raise
        except Exception as error:  # of the HTTP library that huggingface_hub uses this year
            raise PublishError(f"{api.endpoint} does not answer: {error}") from error
    return str(commit.commit_url)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; the exit code is 0, or 1 after one line of what is wrong."""
    parser = argparse.ArgumentParser(prog="python kernels/publish.py", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    staging = commands.add_parser("stage", help="write what the Hub's repository would hold to a folder")
    staging.add_argument("--out", type=Path, default=DEFAULT_OUT, metavar="DIR", help="default: %(default)s")
    pushing = commands.add_parser("push", help="stage, and commit to the Hub; needs HF_TOKEN or `hf auth login`")
    pushing.add_argument("repo_id", metavar="OWNER/NAME")
    pushing.add_argument("--revision", metavar="BRANCH", help="default: v and the version in build.toml")
    pushing.add_argument("--private", action="store_true", help="make a new repository private")
    options = parser.parse_args(arguments)
    try:
        if options.command == "stage":
            print(stage(options.out))
        else:
            print(push(options.repo_id, options.revision, options.private))
    except (PublishError, OSError, ValueError) as error:
        print("publish:", " ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
