"""The part of a converted detector's model card that says where it comes from."""

from __future__ import annotations

from typing import NamedTuple

from dyzoo.config import DetectorConfig
from dyzoo.config.architectures import ARCHITECTURES, Published
from dyzoo.config.labels import COCO_LABELS
from dyzoo.hub.cards import CardDetails
from dyzoo.hub.measurements import HEADING

CONVERTED = "Converted by `dyzoo convert`"
"""Begins the paragraph, and tells a folder that the command may write over."""


class _CodeBase(NamedTuple):
    """Who publishes checkpoints under their code's licence."""

    authors: str
    license: str  # the Hub's short name


_CODE_BASES = {  # by the beginning of an architecture's name
    "official": _CodeBase("the authors of [microsoft/DynamicHead](https://github.com/microsoft/DynamicHead)", "mit"),
    "mmdet": _CodeBase("OpenMMLab's [mmdetection](https://github.com/open-mmlab/mmdetection)", "apache-2.0"),
}


def card_details(
    config: DetectorConfig, file_name: str | None, sha256: str | None, published: Published | None
) -> CardDetails:
    """Details of the card of a converted detector: its source, authors and licence, and what was measured.

    Args:
        config: of the detector.
        file_name: how the file is called where it is published, or as it was given; None: weights in memory.
        sha256: its hash.
        published: what is reported of its weights with COCO's classes, and where they are; None: nobody knows.
    """
    code_base = _CODE_BASES[config.architecture.partition("_")[0]]
    description = (ARCHITECTURES[config.architecture].__doc__ or "").splitlines()[0].rstrip(".")
    if config.labels != COCO_LABELS:
        reported = "It has classes of its own, so no published number is about it"
    elif published is None:
        reported = "No number is known that was reported of this very file"
    else:
        reported = (
            f"A COCO box AP of {published.ap:.1f} is reported for the checkpoint published under that name "
            f"({published.where}). That is as published, it was not measured here"
        )
    facts = [
        f"Published by {code_base.authors}" + (f": {published.weights_url}" if published is not None else ""),
        f"Its file `{file_name}` has the sha256 `{sha256}`"
        if file_name
        else "It was weights in memory, of no known file",
        "The licence is that of the original's code, as none is stated for the weights alone",
        reported,
        f'Measured is what stands under "{HEADING.strip("# ")}", and nothing else',
    ]
    lines = "\n".join(f"- {fact}." for fact in facts)
    return CardDetails(
        license=code_base.license,
        training=f"{CONVERTED} from a checkpoint of this detector: {description}. No training was added.\n\n{lines}",
    )
