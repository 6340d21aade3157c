"""Which entry of the catalogue a detector's weights are."""

from __future__ import annotations

from pathlib import Path

from dyzoo.errors import UnknownModelError
from dyzoo.files import sha256
from dyzoo.hub.ids import WEIGHTS_NAME
from dyzoo.zoo.catalog import Checkpoint, checkpoints
from dyzoo.zoo.names import find_checkpoint
from dyzoo.zoo.store import Provenance


def checkpoint_of(source: str) -> Checkpoint | None:
    """The checkpoint that `dyzoo.load(source)` loads.

    Args:
        source: its name, or the folder that it is kept in; a folder is preferred, as `dyzoo.load` does.

    Returns:
        Its entry; None for any other detector, and for a folder whose weights have been changed.
    """
    folder = Path(source).expanduser()
    if not folder.exists():
        try:
            return find_checkpoint(source)
        except UnknownModelError:
            return None
    provenance = Provenance.read(folder)
    try:
        unchanged = provenance is not None and sha256(folder / WEIGHTS_NAME) == provenance.weights_sha256
    except OSError:  # no weights, or none that may be read
        return None
    return checkpoints().get(provenance.name) if provenance is not None and unchanged else None
