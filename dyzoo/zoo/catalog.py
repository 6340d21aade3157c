"""The checkpoints (`architecture.tag`) of `weights/catalog.toml`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from dyzoo.config.architectures import PUBLISHED, Published
from dyzoo.errors import CheckpointError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CATALOG_NAME = "catalog.toml"


@dataclass(frozen=True)
class Checkpoint:
    """One entry of `weights/catalog.toml`, of one of three kinds.

    It names either a `folder`, or `repo_id` and `revision` on the Hugging Face Hub, or the `addresses` of a file of
    another code base, which is converted when it has been fetched.

    Attributes:
        name: architecture.tag.
        licence: licence of the weights, as their source states it.
        dataset: data that they were trained on.
        source: who trained them, and where that is written.
        sha256: hash of the weights, in hex; of another code base's file where it is known.
        metrics: measured with these very weights, fractions of 1.
        folder: a folder beside the catalogue, with config.json and model.safetensors.
        repo_id: org/name.
        revision: a whole commit hash: what is published under it cannot change.
        file: the weights in the repository; their config.json lies beside them.
        addresses: where the other code base's file is, in the order in which they are tried: `https://...`, `http://...`
            or `hf://org/name[@revision]/path`. All hold the same file.
        sha256_prefix: how the sha256 of the file begins, where its publisher says no more.
        size: of the file in bytes, None where nobody says.
        parameters: numbers in the file, where it holds more than the detector: a text encoder too.
        reported: what others report of these weights, as `metrics`; not measured here.
        reported_by: who does.
        unverified: what nobody has been able to check, for the user to know.
    """

    name: str
    licence: str
    dataset: str
    source: str
    sha256: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    folder: str | None = None
    repo_id: str | None = None
    revision: str | None = None
    file: str = "model.safetensors"
    addresses: list[str] = field(default_factory=list)
    sha256_prefix: str | None = None
    size: int | None = None
    parameters: int | None = None
    reported: dict[str, float] = field(default_factory=dict)
    reported_by: str | None = None
    unverified: str | None = None

    @property
    def architecture(self) -> str:
        """The name without its tag."""
        return self.name.split(".")[0]

    @property
    def is_foreign(self) -> bool:
        """Whether it is a file of another code base."""
        return bool(self.addresses)

    @property
    def published(self) -> Published:
        """The number that others report of this file, which may be another than its architecture's, and where it is,
        without the mirror that it may have come from."""
        beside = PUBLISHED[self.architecture]
        ap = 100 * self.reported["AP"] if "AP" in self.reported else beside.ap
        place = f"{self.addresses[0]} ({self.unverified})" if self.unverified else self.addresses[0]
        return Published(ap, self.reported_by or beside.where, place)

    @property
    def file_name(self) -> str:
        """Name of another code base's file, which its copies elsewhere have too."""
        return self.addresses[0].rsplit("/", 1)[-1]

    def is_of(self, digest: str) -> bool:
        """Whether a file with this sha256 may be the weights; True where nothing is known of it."""
        return digest == self.sha256 if self.sha256 else digest.startswith(self.sha256_prefix or "")

    @property
    def has_hash(self) -> bool:
        """Whether anything is known of the file's sha256."""
        return bool(self.sha256 or self.sha256_prefix)


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


def entries_of(digest: str) -> list[Checkpoint]:
    """The entries whose file of another code base has this sha256, as far as the catalogue knows it."""
    return [known for known in checkpoints().values() if known.is_foreign and known.has_hash and known.is_of(digest)]


def reported_of(digest: str, architecture: str) -> Published | None:
    """The number that others report of a file with this sha256; None where several files are published for the
    architecture, and it is none of them."""
    if found := [entry for entry in entries_of(digest) if entry.architecture == architecture]:
        return found[0].published
    several = sum(entry.architecture == architecture for entry in checkpoints().values()) > 1
    return None if several else PUBLISHED[architecture]


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
    required = [known.name for known in fields(Checkpoint) if known.default is known.default_factory is MISSING]
    needed = ("reported", "reported_by") if "addresses" in entry else ("sha256", "metrics")
    if missing := [name for name in (*required, *needed) if name not in entry]:
        raise CheckpointError(f"{where}: {missing[0]} is missing")
    for key, value in entry.items():
        is_right, expected = _RULES[key]
        if not is_right(value):
            raise CheckpointError(f"{where}: {key} is {value!r}, expected {expected}")
    checkpoint = Checkpoint(**entry)
    on_hub = (checkpoint.repo_id is not None, checkpoint.revision is not None)
    kinds = (checkpoint.folder is not None, all(on_hub), checkpoint.is_foreign)
    if any(on_hub) is not all(on_hub) or sum(kinds) != 1:
        raise CheckpointError(f"{where}: expected either folder, or repo_id and revision, or addresses")
    strays = [name for name in _OF_FOREIGN_FILES if name in entry and not checkpoint.is_foreign]
    if strays:
        raise CheckpointError(f"{where}: {strays[0]} is of files of other code bases, which have addresses")
    if len({address.rsplit("/", 1)[-1] for address in checkpoint.addresses}) > 1:
        raise CheckpointError(f"{where}: the addresses end in different names, expected copies of one file")
    if checkpoint.is_foreign and not checkpoint.has_hash and not all(map(_IS_ON_HUB, checkpoint.addresses)):
        raise CheckpointError(f"{where}: sha256 or sha256_prefix is missing, only the Hub can do without")
    return checkpoint


def _matches(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _is_inside(value: Any) -> bool:
    """A relative path that does not lead out, in POSIX form."""
    return _matches(r"[\w./-]+")(value) and not PurePosixPath(value).is_absolute() and ".." not in value.split("/")


def _is_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(type(number) in (int, float) for number in value.values())


_TEXT = (_matches(r"(?s).*\S.*"), "a text")
_NUMBERS = (_is_numbers, "a table of numbers")
_ON_HUB = r"hf://[\w.-]+/[\w.-]+(?:@[\w./-]+?)?(?:/(?!\.)[\w.-]+)+"
_IS_ON_HUB = _matches(_ON_HUB)
_IS_ADDRESS = _matches(rf"https?://[\w.-]+(?::\d+)?(?:/[\w.~%+-]+)*/(?!\.)[\w.+-]+|{_ON_HUB}")
_OF_FOREIGN_FILES = ("addresses", "sha256_prefix", "size", "parameters", "reported", "reported_by", "unverified")
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (_matches(r"\w+\.[\w-]+"), "architecture.tag"),
    "sha256": (_matches(r"[0-9a-f]{64}"), "64 hexadecimal digits"),
    "licence": _TEXT,
    "dataset": _TEXT,
    "metrics": _NUMBERS,
    "source": _TEXT,
    "folder": (_is_inside, "a folder beside the catalogue"),
    "repo_id": (_matches(r"[\w.-]+/[\w.-]+"), "org/name"),
    "revision": (_matches(r"[0-9a-f]{40}"), "a commit hash of 40 hexadecimal digits"),
    "file": (lambda value: _is_inside(value) and value.endswith(".safetensors"), "a .safetensors file"),
    "addresses": (
        lambda value: isinstance(value, list) and value != [] and all(map(_IS_ADDRESS, value)),
        "a list of https://..., http://... or hf://org/name/path",
    ),
    "sha256_prefix": (_matches(r"[0-9a-f]{8,63}"), "8 hexadecimal digits or more"),
    "size": (lambda value: type(value) is int and value > 0, "a number of bytes"),
    "parameters": (lambda value: type(value) is int and value > 0, "a number of parameters"),
    "reported": _NUMBERS,
    "reported_by": _TEXT,
    "unverified": _TEXT,
}


def sample_image() -> Path:
    """The picture that `dyzoo predict` shows itself on when none is named."""
    return weights_folder() / "sample.jpg"
