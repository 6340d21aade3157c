"""Published detectors of other code bases: fetched, converted once, kept."""

from __future__ import annotations

import warnings
from datetime import datetime, timezone
from pathlib import Path

from dyzoo._version import __version__
from dyzoo.checkpoints import convert
from dyzoo.checkpoints.provenance import card_details
from dyzoo.config.architectures import Published
from dyzoo.errors import DyzooWarning
from dyzoo.files import check_regular, sha256
from dyzoo.hub.ids import WEIGHTS_NAME
from dyzoo.zoo.catalog import Checkpoint
from dyzoo.zoo.sources import find_file
from dyzoo.zoo.store import Provenance, keep, kept, kept_folder, working_folder


class UnverifiedWarning(DyzooWarning):
    """Weights were fetched of which something could not be checked."""


def fetch_foreign(checkpoint: Checkpoint) -> Path:
    """The folder of a detector that another code base has trained; fetched and converted if it is not kept yet.

    A second process that wants the same waits for the first. A process that is killed leaves nothing that would be
    taken for a detector.

    Args:
        checkpoint: with `addresses`.

    Returns:
        A folder with `config.json`, `model.safetensors`, `README.md` and `provenance.json`.

    Raises:
        HubError: no address has the file to give.
        CheckpointError: what they give is another file, or cannot be converted.
        OSError: the disk is full or may not be written to.
    """
    if kept(checkpoint) is not None:
        return kept_folder(checkpoint.name)
    with working_folder(checkpoint.name) as working:
        if kept(checkpoint) is not None:  # by a process that was waited for
            return kept_folder(checkpoint.name)
        found = find_file(checkpoint, working)
        detector = convert(found.path, checkpoint.architecture).detector
        folder = working / checkpoint.name
        details = card_details(detector.config, checkpoint.file_name, found.sha256, _published(checkpoint))
        detector.save_pretrained(folder, card=details)
        provenance = Provenance(
            name=checkpoint.name,
            address=found.address,
            sha256=found.sha256,
            size=check_regular(found.path),
            fetched=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            licence=checkpoint.licence,
            weights_sha256=sha256(folder / WEIGHTS_NAME),
            dyzoo=__version__,
        )
        provenance.write(folder)
        kept_in = keep(checkpoint.name, folder, working)
    if checkpoint.unverified:
        warnings.warn(f"{checkpoint.name} is {checkpoint.unverified}", UnverifiedWarning, stacklevel=2)
    return kept_in


def _published(checkpoint: Checkpoint) -> Published | None:
    """The catalogue's facts about the file, without the mirror that it may have come from."""
    source = checkpoint.addresses[0] + (f" ({checkpoint.unverified})" if checkpoint.unverified else "")
    ap = checkpoint.reported.get("AP")
    return None if ap is None else Published(100 * ap, str(checkpoint.reported_by), source)
