"""Classes from words: a kept detector whose text encoder lies beside it, for any class names."""

from __future__ import annotations

from collections.abc import Sequence

from dyzoo.checkpoints.glip import with_words
from dyzoo.checkpoints.provenance import card_details
from dyzoo.grounding import Caption, read_language
from dyzoo.model.detector import Detector
from dyzoo.zoo.catalog import Checkpoint
from dyzoo.zoo.fetching import fetch_foreign
from dyzoo.zoo.store import LANGUAGE_NAME, Provenance, check_hash, mend_hint


def for_words(checkpoint: Checkpoint, source: Detector, labels: Sequence[str], captions: Sequence[Caption]) -> Detector:
    """The detector of a checkpoint for classes of these names, bit for bit what the conversion of its file gives.

    Args:
        checkpoint: one that reads words; what is kept of it without a text encoder is fetched again.
        source: its detector, for whatever classes.
        labels: any names.
        captions: that the names make.

    Raises:
        HubError: it is to be fetched, and no address has it to give.
        CheckpointError: the text encoder is missing, damaged, or not what was kept.
    """
    folder = fetch_foreign(checkpoint, for_words=True)
    provenance, mend = Provenance.read(folder), mend_hint(checkpoint.name)
    path = folder / LANGUAGE_NAME
    check_hash(path, None if provenance is None else provenance.language_sha256, mend)
    language = read_language(path, source.config.dyhead.channels, mend)
    detector = with_words(source, language, labels, captions)
    if provenance is not None:
        details = card_details(detector.config, checkpoint.file_name, provenance.sha256, checkpoint.published)
        detector.describe(details)
    return detector
