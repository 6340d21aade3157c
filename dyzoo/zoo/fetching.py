"""Published detectors of other code bases: fetched, converted once, kept."""

from __future__ import annotations

import warnings
from datetime import datetime, timezone
from pathlib import Path

from dyzoo._version import __version__
from dyzoo.checkpoints import convert
from dyzoo.checkpoints.provenance import card_details
from dyzoo.errors import DyzooWarning
from dyzoo.files import check_regular, sha256
from dyzoo.grounding import write_language
from dyzoo.hub.ids import WEIGHTS_NAME
from dyzoo.zoo.catalog import Checkpoint
from dyzoo.zoo.sources import find_file
from dyzoo.zoo.store import LANGUAGE_NAME, Provenance, keep, keeps_language, kept, kept_folder, working_folder


class UnverifiedWarning(DyzooWarning):
    """Weights were fetched of which something could not be checked."""


def fetch_foreign(checkpoint: Checkpoint, for_words: bool = False) -> Path:
    """The folder of a detector that another code base has trained; fetched and converted if it is not kept yet.

    A second process that wants the same waits for the first. A process that is killed leaves nothing that would be
    taken for a detector.

    Args:
        checkpoint: with `addresses`.
        for_words: its classes are words, and others are to be read: a detector without what reads them is fetched
            again, and stays if that fails.

    Returns:
        A folder with `config.json`, `model.safetensors`, `README.md` and `provenance.json`; `language.safetensors`
        beside them is the text encoder of a detector whose classes are words.

    Raises:
        HubError: no address has the file to give.
        CheckpointError: what they give is another file, or cannot be converted.
        OSError: the disk is full or may not be written to.
    """
    is_here = keeps_language if for_words else kept
    if is_here(checkpoint):
        return kept_folder(checkpoint.name)
    with working_folder(checkpoint.name) as working:
        if is_here(checkpoint):  # by a process that was waited for
            return kept_folder(checkpoint.name)
        found = find_file(checkpoint, working)
        conversion = convert(found.path, checkpoint.architecture)
        folder, language = working / checkpoint.name, working / checkpoint.name / LANGUAGE_NAME
        details = card_details(conversion.detector.config, checkpoint.file_name, found.sha256, checkpoint.published)
        conversion.detector.save_pretrained(folder, card=details)
        if conversion.language is not None:
            write_language(conversion.language, language)
        provenance = Provenance(
            name=checkpoint.name,
            address=found.address,
            sha256=found.sha256,
            size=check_regular(found.path),
            fetched=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            licence=checkpoint.licence,
            weights_sha256=sha256(folder / WEIGHTS_NAME),
            dyzoo=__version__,
            language_sha256=None if conversion.language is None else sha256(language),
        )
        provenance.write(folder)
        kept_in = keep(checkpoint.name, folder, working)
    if checkpoint.unverified:
        warnings.warn(f"{checkpoint.name} is {checkpoint.unverified}", UnverifiedWarning, stacklevel=2)
    return kept_in
