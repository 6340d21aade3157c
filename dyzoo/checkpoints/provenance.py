"""The part of a converted detector's model card that says where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from dyzoo.config import DetectorConfig
from dyzoo.config.architectures import ARCHITECTURES, PUBLISHED, Published
from dyzoo.config.labels import COCO_LABELS
from dyzoo.files import sha256
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
    path: Path | None, config: DetectorConfig, file_name: str | None = None, published: Published | None = None
) -> CardDetails:
    """Details of the card of a converted detector: its source, authors and licence, and what was measured.

    Args:
        path: the file that it was converted from; None: weights in memory.
        config: the detector's.
        file_name: what the file is called where it is published; None: as `path` is.
        published: what its publisher reports of this very file; None: what is known of the architecture.
    """
    known = published or PUBLISHED[config.architecture]
    code_base = _CODE_BASES[config.architecture.partition("_")[0]]
    description = (ARCHITECTURES[config.architecture].__doc__ or "").splitlines()[0].rstrip(".")
    if config.labels == COCO_LABELS:
        of = "it" if published else "the checkpoint published under that name"
        reported = f"a COCO box AP of {known.ap:.1f} for {of} ({known.where}), as published; it was not measured here"
    else:
        reported = "it has classes of its own, so no published number is about it"
    facts = {
        "source": f"{known.weights_url}, published by {code_base.authors}",
        "file": "weights in memory, of which no file is known"
        if path is None
        else f"`{file_name or path.name}`, sha256 `{sha256(path)}`",
        "licence": "that of the original's code, as none is stated for the weights alone",
        "reported": reported,
        "measured": f'what stands under "{HEADING.strip("# ")}", and nothing else',
    }
    lines = "\n".join(f"- {name}: {fact}" for name, fact in facts.items())
    return CardDetails(
        license=code_base.license,
        training=f"{CONVERTED} from a checkpoint of this detector: {description}. No training was added.\n\n{lines}",
    )
