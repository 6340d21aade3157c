"""The checkpoints (`architecture.tag`) of `weights/catalog.toml`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from dyzoo.errors import CheckpointError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CATALOG_NAME = "catalog.toml"


@dataclass(frozen=True)
class Checkpoint:
    """One entry of `weights/catalog.toml`: either a `folder`, or `repo_id` and `revision` on the Hugging Face Hub.

    Attributes:
        name: architecture.tag.
        sha256: hash of the weights, in hex.
        licence: licence of the weights.
        dataset: data that they were trained on.
        metrics: measured with these very weights.
        source: who trained them, and where that is written.
        folder: a folder beside the catalogue, with config.json and model.safetensors.
        repo_id: org/name.
        revision: a whole commit hash: what is published under it cannot change.
        file: the weights in the repository; their config.json lies beside them.
    """

    name: str
    sha256: str
    licence: str
    dataset: str
    metrics: dict[str, float]
    source: str
    folder: str | None = None
    repo_id: str | None = None
    revision: str | None = None
    file: str = "model.safetensors"


def weights_folder() -> Path:
    """The catalogue's folder: inside the installed package, or at the top of a source checkout."""
    package = Path(__file__).parents[1]
    installed = package / "weights"
    return installed if installed.is_dir() else package.parent / "weights"


@cache
def checkpoints() -> dict[str, Checkpoint]:
    """Every checkpoint of the catalogue by name.

    Raises:
        CheckpointError: the catalogue is damaged; the message names the first entry and key that is wrong.
    """
    return read_catalog(weights_folder() / CATALOG_NAME)


def read_catalog(path: Path) -> dict[str, Checkpoint]:
    """The entries of a catalogue by name, each checked; raises as `checkpoints` does."""
    try:
        catalog = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # not there; not UTF-8, not TOML
        raise CheckpointError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    entries = catalog.pop("checkpoint", [])
    if catalog or not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise CheckpointError(f"{path} is no catalogue, expected [[checkpoint]] tables and nothing else")
    known: dict[str, Checkpoint] = {}
    for number, entry in enumerate(entries, start=1):
        checkpoint = _read_entry(entry, f"{path}: {entry.get('name', f'entry {number}')}")
        if checkpoint.name in known:
            raise CheckpointError(f"{path}: {checkpoint.name} is there twice")
        known[checkpoint.name] = checkpoint
    return known


def _read_entry(entry: dict[str, Any], where: str) -> Checkpoint:
    names = [field.name for field in fields(Checkpoint)]
    if unknown := sorted(set(entry) - set(names)):
        raise CheckpointError(f"{where}: unknown key {unknown[0]!r}, expected some of {', '.join(names)}")
    if missing := [field.name for field in fields(Checkpoint) if field.default is MISSING and field.name not in entry]:
        raise CheckpointError(f"{where}: {missing[0]} is missing")
    for key, value in entry.items():
        is_right, expected = _RULES[key]
        if not is_right(value):
            raise CheckpointError(f"{where}: {key} is {value!r}, expected {expected}")
    checkpoint = Checkpoint(**entry)
    on_hub = (checkpoint.repo_id is not None, checkpoint.revision is not None)
    if on_hub not in ((True, True), (False, False)) or (checkpoint.folder is None) is not all(on_hub):
        raise CheckpointError(f"{where}: expected either folder, or repo_id and revision")
    return checkpoint


def _matches(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _is_inside(value: Any) -> bool:
    """A relative path that does not lead out, in POSIX form."""
    return _matches(r"[\w./-]+")(value) and not PurePosixPath(value).is_absolute() and ".." not in value.split("/")


_TEXT = (_matches(r"(?s).*\S.*"), "a text")
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (_matches(r"\w+\.[\w-]+"), "architecture.tag"),
    "sha256": (_matches(r"[0-9a-f]{64}"), "64 hexadecimal digits"),
    "licence": _TEXT,
    "dataset": _TEXT,
    "metrics": (
        lambda value: isinstance(value, dict) and all(type(number) in (int, float) for number in value.values()),
        "a table of numbers",
    ),
    "source": _TEXT,
    "folder": (_is_inside, "a folder beside the catalogue"),
    "repo_id": (_matches(r"[\w.-]+/[\w.-]+"), "org/name"),
    "revision": (_matches(r"[0-9a-f]{40}"), "a commit hash of 40 hexadecimal digits"),
    "file": (lambda value: _is_inside(value) and value.endswith(".safetensors"), "a .safetensors file"),
}


def sample_image() -> Path:
    """The picture that `dyzoo predict` shows itself on when none is named."""
    return weights_folder() / "sample.jpg"
