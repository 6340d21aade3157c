"""Files of other code bases from where they are: a mirror, addresses on the web, the Hugging Face Hub.

Each is checked by its hash and size, and nothing of it is run.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from dyzoo import environment, hub
from dyzoo._version import __version__
from dyzoo.errors import CheckpointError, DyzooError, HubError
from dyzoo.files import check_regular, sha256
from dyzoo.hub import transfer
from dyzoo.hub.failures import FAILURES, FULL_DISK, READ_ONLY, cause, is_offline, status
from dyzoo.hub.patience import OutOfPatienceError, Patience
from dyzoo.text import printable
from dyzoo.zoo.catalog import Checkpoint
from dyzoo.zoo.store import mirror

MOST_BYTES = 4 << 30
"""The largest file that is fetched where nobody says how large it is."""

_HUB_ADDRESS = re.compile(r"hf://(?P<repo>[^/]+/[^/@]+)(?:@(?P<revision>.+?))?/(?P<path>.+)")


class Found(NamedTuple):
    """A file that is whole and of the catalogue, where it came from, and its hash."""

    path: Path
    address: str
    sha256: str


def find_file(checkpoint: Checkpoint, folder: Path) -> Found:
    """The file of another code base, from the mirror or the first of its addresses that has it.

    Args:
        checkpoint: with `addresses`.
        folder: for what is fetched. What an earlier call has left there is gone on with.

    Raises:
        HubError: no address has it to give.
        CheckpointError: one has, but it is another file.
        OSError: the folder cannot be written to.
    """
    faults: list[DyzooError] = []
    place = mirror()
    for address in [*([f"{place}/{checkpoint.file_name}"] if place else []), *checkpoint.addresses]:
        try:
            return _find(checkpoint, address, folder)
        except (HubError, CheckpointError) as error:
            faults.append(error)
    kind = CheckpointError if all(isinstance(fault, CheckpointError) for fault in faults) else HubError
    raise kind(
        f"{checkpoint.name} cannot be fetched: {'; '.join(map(str, faults))}: try again, or put {checkpoint.file_name} "
        f"into a folder and name that with {environment.MIRROR}"
    )


def shown(address: str) -> str:
    """An address without a user's name and password, as it may be printed and written."""
    parts = urlsplit(address)
    return printable(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if parts.scheme else address)


def _find(checkpoint: Checkpoint, address: str, folder: Path) -> Found:
    if match := _HUB_ADDRESS.fullmatch(address):
        return _from_hub(checkpoint, address, folder, **match.groupdict())
    if "://" not in address:
        return _checked(checkpoint, Path(address).expanduser(), address)
    part = folder / f"{checkpoint.file_name}.part"
    resumed = part.exists() and part.stat().st_size > 0
    _fetch(checkpoint, address, part)
    try:
        return _checked(checkpoint, part, address)
    except CheckpointError:
        part.unlink()
        if not resumed:
            raise
    return _find(checkpoint, address, folder)  # what was there may have been the beginning of something else


def _from_hub(checkpoint: Checkpoint, address: str, folder: Path, repo: str, revision: str | None, path: str) -> Found:
    most = checkpoint.size or MOST_BYTES
    (found,) = hub.download(repo, [path], revision=revision, cache_dir=folder / "hub", most_bytes=most)
    return _checked(checkpoint, found, address)


def _checked(checkpoint: Checkpoint, path: Path, address: str) -> Found:
    try:
        size = check_regular(path)
        digest = sha256(path)
    except OSError as error:
        raise HubError(f"{shown(address)}: {error.strerror}") from None
    if checkpoint.size not in (None, size):
        raise CheckpointError(f"{shown(address)} has {size} bytes, expected {checkpoint.size}")
    if not checkpoint.is_of(digest):
        wanted = checkpoint.sha256 or f"{checkpoint.sha256_prefix}..."
        raise CheckpointError(f"{shown(address)} is another file: its sha256 is {digest}, expected {wanted}")
    return Found(path, shown(address), digest)


def _fetch(checkpoint: Checkpoint, url: str, part: Path) -> None:
    headers = {"User-Agent": f"dyzoo/{__version__}"}
    patience = Patience()

    def fetched() -> None:
        transfer.fetch(
            url, headers, part, checkpoint.size, checkpoint.file_name, patience, most=MOST_BYTES, is_hub=False
        )

    try:
        patience.run(fetched)
    except FAILURES as error:
        if part.exists() and not part.stat().st_size:
            part.unlink()
        raise _explain(error, shown(url), part) from error


def _explain(error: Exception, address: str, part: Path) -> Exception:
    if isinstance(error, transfer.WrongSizeError):
        part.unlink(missing_ok=True)
        return CheckpointError(f"{address} is another file: {error}")
    if isinstance(error, transfer.RedirectionError):
        return HubError(f"{address}: {error}")
    if isinstance(error, OSError) and error.errno in (*FULL_DISK, *READ_ONLY):
        return OSError(error.errno, f"{error.strerror} (free some room, or set {environment.HOME})", str(part.parent))
    if is_offline(error):
        return HubError(f"HF_HUB_OFFLINE is set, and {address} is not on this machine")
    if (answer := status(error)) is not None:
        return HubError(f"{address} answers {answer}")
    if isinstance(error, OutOfPatienceError):
        return HubError(f"{address} does not give it ({error})")
    return HubError(f"{address} cannot be reached or broke off ({cause(error)})")
