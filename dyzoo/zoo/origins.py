"""The entry of the catalogue that a detector's weights, or a file of another code base, are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dyzoo.checkpoints import ConvertedCheckpoint, convert
from dyzoo.checkpoints.provenance import card_details
from dyzoo.errors import UnknownModelError
from dyzoo.files import sha256
from dyzoo.hub.ids import WEIGHTS_NAME
from dyzoo.zoo.catalog import Checkpoint, checkpoints, reported_of
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


def convert_file(path: Path, architecture: str, labels: Sequence[str] | None) -> ConvertedCheckpoint:
    """`convert` a file, whose card has the number that is reported of it, if the catalogue knows it by its hash.

    Raises as `convert_checkpoint`.
    """
    conversion = convert(path, architecture, labels)
    if conversion.sha256 is not None:
        reported = reported_of(conversion.sha256, architecture)
        config = conversion.detector.config
        conversion.detector.describe(card_details(config, path.name, conversion.sha256, reported))
    return conversion
