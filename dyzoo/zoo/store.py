"""Converted detectors that were fetched, kept in a folder of ours: what is there, and removing it.

    <home>/checkpoints/<name>/    what `save_pretrained` writes, and provenance.json: whole, or not there;
                                  language.safetensors beside them, where classes are words
    <home>/unfinished/<name>/     a download that goes on from here, and what a process that was killed has left

A folder is filled under `unfinished` and renamed; whoever does so holds that folder's lock.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path

from dyzoo import environment
from dyzoo.errors import CheckpointError
from dyzoo.files import check_regular, read_regular, sha256, write_text
from dyzoo.hub.ids import CONFIG_NAME, WEIGHTS_NAME
from dyzoo.locks import LOCK_NAME, RunLock
from dyzoo.zoo.catalog import Checkpoint

PROVENANCE_NAME = "provenance.json"
LANGUAGE_NAME = "language.safetensors"
_MAX_PROVENANCE_BYTES = 1 << 16
_REMOVED_NAME = ".removed"


@dataclass(frozen=True)
class Provenance:
    """Where a kept detector comes from; `provenance.json` beside it.

    Attributes:
        name: name of the checkpoint.
        address: where its file was fetched, without a password.
        sha256: hash of that file.
        size: length of that file, in bytes.
        fetched: when, in UTC.
        licence: as the catalogue had it.
        weights_sha256: hash of model.safetensors.
        dyzoo: the version that converted it.
        language_sha256: hash of language.safetensors, None where there is none.
    """

    name: str
    address: str
    sha256: str
    size: int
    fetched: str
    licence: str
    weights_sha256: str
    dyzoo: str
    language_sha256: str | None = None

    def write(self, folder: Path) -> None:
        """Write the file into a detector's folder."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        write_text(folder / PROVENANCE_NAME, json.dumps(values, indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Provenance | None:
        """The file of a folder, None where there is none or it is damaged."""
        try:
            content = json.loads(read_regular(folder / PROVENANCE_NAME, _MAX_PROVENANCE_BYTES))
            needed = {field.name: content[field.name] for field in fields(cls) if field.default is MISSING}
            values = needed | {field.name: content[field.name] for field in fields(cls) if field.name in content}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        right = all(isinstance(value, int if name == "size" else str) for name, value in values.items())
        return cls(**values) if right else None


def home() -> Path:
    """The folder that all is kept in, which need not exist."""
    if folder := environment.home():
        return Path(folder).expanduser().absolute()
    from huggingface_hub import constants

    return Path(constants.HF_HOME).parent / "dyzoo"


def mirror() -> str | None:
    """The folder or address where files are looked for first.

    Raises:
        CheckpointError: it is an address of another kind than http and https.
    """
    place = environment.mirror().rstrip("/")
    if "://" in place and not place.startswith(("http://", "https://")):
        raise CheckpointError(f"{environment.MIRROR} is {place!r}, expected http://..., https://... or a folder")
    return place or None


def kept_folder(name: str) -> Path:
    """Where the detector of a checkpoint is kept, if it is."""
    return home() / "checkpoints" / name


def kept(checkpoint: Checkpoint) -> Provenance | None:
    """Where a kept detector comes from, None where it is not kept, or not from the file that the catalogue means."""
    folder = kept_folder(checkpoint.name)
    provenance = Provenance.read(folder)
    whole = all((folder / name).is_file() for name in (CONFIG_NAME, WEIGHTS_NAME))
    return provenance if provenance is not None and whole and checkpoint.is_of(provenance.sha256) else None


def check_hash(path: Path, expected: str | None, advice: str) -> None:
    """Refuse a file that is not what was published or kept.

    Raises:
        CheckpointError: its sha256 is another than `expected`, or it cannot be read; `advice` ends the message.
    """
    try:
        found = sha256(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): {advice}") from None
    if found != expected:
        raise CheckpointError(f"{path} is not the file of the catalogue (sha256 differs): {advice}")


def mend_hint(name: str) -> str:
    """The way out where what is kept of a checkpoint is not right."""
    return f"`dyzoo cache --remove {name}`, and it is fetched again"


def keeps_language(checkpoint: Checkpoint) -> bool:
    """Whether what reads other words for a kept detector is beside it."""
    provenance = kept(checkpoint)
    beside = kept_folder(checkpoint.name) / LANGUAGE_NAME
    return provenance is not None and provenance.language_sha256 is not None and beside.is_file()


def size_on_disk(folder: Path) -> int:
    """Bytes of the files below a folder, symbolic links not followed; 0 where it is absent."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            try:
                total += 0 if path.is_symlink() else check_regular(path)
            except OSError:  # it has gone in between
                continue
    return total


@dataclass(frozen=True)
class Entry:
    """Bytes that are kept of one name: of the detector, and of a download that is not finished."""

    name: str
    size: int
    unfinished: int
    provenance: Provenance | None


def entries() -> list[Entry]:
    """All that is kept, by name."""
    names: set[str] = set()
    for place in ("checkpoints", "unfinished"):
        if (home() / place).is_dir():
            names.update(path.name for path in (home() / place).iterdir() if path.is_dir())
    found = []
    for name in sorted(names):
        size, unfinished = size_on_disk(kept_folder(name)), size_on_disk(_unfinished(name))
        if size or unfinished:
            found.append(Entry(name, size, unfinished, Provenance.read(kept_folder(name))))
    return found


def remove(name: str) -> int:
    """Remove what is kept of a name of `entries`; waits for a process that fetches it. Gives the bytes that it freed.

    Raises:
        CheckpointError: nothing is.
        OSError: it may not be removed.
    """
    sizes = {entry.name: entry.size + entry.unfinished for entry in entries()}
    if name not in sizes:
        raise CheckpointError(f"nothing is kept of {name!r} in {home()}: `dyzoo cache` shows what is")
    with working_folder(name) as folder:
        set_aside(name, folder)
        empty(folder)
    return sizes[name]


@contextmanager
def working_folder(name: str) -> Iterator[Path]:
    """The folder in which a checkpoint's download and conversion is going on, for this process alone.

    What a process that was killed has left is removed, but for the part of a download.
    """
    folder = _unfinished(name)
    with RunLock(folder) as lock:
        lock.take(wait=True)
        for left in (_REMOVED_NAME, name):
            shutil.rmtree(folder / left, ignore_errors=True)
        yield folder


def keep(name: str, detector_folder: Path, working: Path) -> Path:
    """Put a whole detector in its place, in one step; gives the place."""
    target = kept_folder(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    set_aside(name, working)
    detector_folder.rename(target)
    empty(working)
    return target


def set_aside(name: str, working: Path) -> None:
    """Take away the detector that is kept, in one step."""
    if kept_folder(name).exists():
        kept_folder(name).rename(working / _REMOVED_NAME)


def empty(working: Path) -> None:
    """Remove all from a working folder but its lock."""
    for path in working.iterdir():
        if path.name == LOCK_NAME:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _unfinished(name: str) -> Path:
    return home() / "unfinished" / name
