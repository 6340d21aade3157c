"""The part of a converted detector's model card that says where it comes from."""

from __future__ import annotations

from pathlib import Path

from dyzoo.config import DetectorConfig
from dyzoo.config.architectures import ARCHITECTURES, PUBLISHED
from dyzoo.config.labels import COCO_LABELS
from dyzoo.files import sha256
from dyzoo.hub.cards import CardDetails

CONVERTED = "Converted by `dyzoo convert`"
"""Begins the paragraph, and tells a folder that the command may write over."""

_LICENSES = {"official": "mit", "mmdet": "apache-2.0"}  # the code bases' own, which they publish their weights under


def card_details(path: Path, config: DetectorConfig, file_name: str | None = None) -> CardDetails:
    """Details of the card of a detector converted from the file `path`, once called `file_name` if that is given."""
    published = PUBLISHED[config.architecture]
    description = (ARCHITECTURES[config.architecture].__doc__ or "").splitlines()[0].rstrip(".")
    reported = (
        f"A COCO box AP of {published.ap:.1f} is reported for the checkpoint published under that name "
        f"({published.where}; {published.weights_url}). That is as published, it was not measured here"
    )
    if config.labels != COCO_LABELS:
        reported = "It has classes of its own, so no published number is about it"
    return CardDetails(
        license=_LICENSES[config.architecture.partition("_")[0]],
        training=f"{CONVERTED} from a checkpoint of this detector: {description}. "
        f"Its file `{file_name or path.name}` has the sha256 `{sha256(path)}`. No training was added. {reported}. "
        "The licence is that of the original's code.",
    )
