"""The part of a converted detector's model card that says where it comes from."""

from __future__ import annotations

from dyzoo.config import DetectorConfig
from dyzoo.config.architectures import ARCHITECTURES, Published
from dyzoo.config.labels import COCO_LABELS
from dyzoo.hub.cards import CardDetails

CONVERTED = "Converted by `dyzoo convert`"
"""Begins the paragraph, and tells a folder that the command may write over."""

_LICENSES = {"official": "mit", "mmdet": "apache-2.0"}  # the code bases' own, which they publish their weights under


def card_details(config: DetectorConfig, file_name: str, sha256: str, published: Published | None) -> CardDetails:
    """Details of the card of a detector converted from a file.

    Args:
        config: of the detector.
        file_name: how the file is called where it is published, or as it was given.
        sha256: its hash.
        published: what is reported of its weights with COCO's classes; None where that is not known.
    """
    description = (ARCHITECTURES[config.architecture].__doc__ or "").splitlines()[0].rstrip(".")
    if config.labels != COCO_LABELS:
        reported = "It has classes of its own, so no published number is about it"
    elif published is None:
        reported = "Several checkpoints of it are published, and by its hash the file is none of them"
    else:
        reported = (
            f"A COCO box AP of {published.ap:.1f} is reported for the checkpoint published under that name "
            f"({published.where}; {published.weights_url}). That is as published, it was not measured here"
        )
    return CardDetails(
        license=_LICENSES[config.architecture.partition("_")[0]],
        training=f"{CONVERTED} from a checkpoint of this detector: {description}. "
        f"Its file `{file_name}` has the sha256 `{sha256}`. No training was added. {reported}. "
        "The licence is that of the original's code.",
    )
