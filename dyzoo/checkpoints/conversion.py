"""From a foreign checkpoint to a detector that gives the same answers."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dyzoo.checkpoints import glip, mmdet, official
from dyzoo.checkpoints.provenance import card_details
from dyzoo.checkpoints.reading import read_checkpoint, weights_of
from dyzoo.checkpoints.rules import KeyRules
from dyzoo.config.architectures import ARCHITECTURES, PUBLISHED
from dyzoo.config.labels import COCO_LABELS
from dyzoo.errors import CheckpointError, UnknownModelError
from dyzoo.files import sha256
from dyzoo.grounding import LanguageModel
from dyzoo.model.detector import Detector

KEY_RULES: dict[str, KeyRules] = {**official.KEY_RULES, **mmdet.KEY_RULES, **glip.KEY_RULES}


@dataclass(frozen=True)
class ConvertedCheckpoint:
    """A converted detector, whose card says where it comes from, and what became of the checkpoint's keys."""

    detector: Detector
    num_keys: int
    ignored: tuple[str, ...]  # keys whose values follow from the configuration
    language: LanguageModel | None = None  # of a detector whose classes are words: reads others for it
    sha256: str | None = None  # of the file, if it was one


def convert_checkpoint(
    path_or_state_dict: str | Path | Mapping[str, Any], source: str, labels: Sequence[str] | None = None
) -> Detector:
    """Make a detector of a checkpoint that another code base has trained, in evaluation mode.

    Every key of the checkpoint is accounted for. No code of the file is run. Until it is trained or given other
    weights, its model card names source, licence, and what is reported and was not measured.

    Args:
        path_or_state_dict: a .pth, .pt, .bin, .pkl or .safetensors file, or the dictionary that such a file holds;
            weights may be nested under "model" or "state_dict" and carry the prefix of parallel training.
        source: the architecture that it is a checkpoint of, one of the `official_*` and `mmdet_*`.
        labels: class names, in the order of the checkpoint's outputs; for GLIP (`mmdet_glip_t_a`) any names, of what is
            to be found. Default: those that an mmdetection checkpoint brings, else COCO's where it has 80 classes.

    Raises:
        UnknownModelError: no checkpoints of `source` can be read; the message suggests the nearest names.
        CheckpointError: the file is absent, damaged, holds pickled code or no weights; a key is missing or unknown; a
            tensor has another shape; `labels` are missing or not as many as the checkpoint's classes.
        LabelError: GLIP's text side cannot read a name.
    """
    return convert(path_or_state_dict, source, labels).detector


def convert(
    path_or_state_dict: str | Path | Mapping[str, Any], source: str, labels: Sequence[str] | None = None
) -> ConvertedCheckpoint:
    """`convert_checkpoint`, and an account of the keys."""
    conversion = _convert(path_or_state_dict, source, labels)
    path = None if isinstance(path_or_state_dict, Mapping) else Path(path_or_state_dict)
    name, digest = (None, None) if path is None else (path.name, sha256(path))
    # Of GLIP several files are published, which the catalogue tells apart by their hashes.
    published = PUBLISHED.get(source) if conversion.language is None else None
    conversion.detector.describe(card_details(conversion.detector.config, name, digest, published))
    return replace(conversion, sha256=digest)


def _convert(
    path_or_state_dict: str | Path | Mapping[str, Any], source: str, labels: Sequence[str] | None
) -> ConvertedCheckpoint:
    if source not in KEY_RULES:
        near = difflib.get_close_matches(source, KEY_RULES, n=3, cutoff=0.4) or sorted(KEY_RULES)
        raise UnknownModelError(f"no checkpoints of {source!r} can be converted: did you mean {', '.join(near)}?")
    rules = KEY_RULES[source]
    if isinstance(path_or_state_dict, Mapping):
        checkpoint, where = path_or_state_dict, "the checkpoint"
    else:
        checkpoint, where = read_checkpoint(path_or_state_dict), str(path_or_state_dict)
    foreign = weights_of(checkpoint, where)
    if rules.class_bias not in foreign:
        others = _candidates(foreign)
        hint = f"is it of {' or '.join(others)}?" if others else "it is of another detector, or not whole"
        raise CheckpointError(f"{where} lacks {rules.class_bias!r} of {source}: {hint}")
    if source in glip.KEY_RULES:
        names = mmdet.class_names(checkpoint) or COCO_LABELS if labels is None else labels
        detector, language, ignored = glip.ground(foreign, source, names, where)
        return ConvertedCheckpoint(detector, len(foreign), tuple(ignored), language)
    num_classes = rules.num_classes(foreign, where)
    config = replace(ARCHITECTURES[source](), labels=_labels(labels, num_classes, checkpoint, where))
    detector = Detector(config)
    weights, ignored = rules.translate(foreign, detector.state_dict(), where)
    detector.load_weights(weights, where)
    return ConvertedCheckpoint(detector.eval(), len(foreign), tuple(ignored))


def candidates(path: str | Path) -> list[str]:
    """The architectures that a checkpoint file may be of, by the name of its classification layer.

    Raises:
        CheckpointError: as for `convert_checkpoint`.
    """
    return _candidates(weights_of(read_checkpoint(path), str(path)))


def _candidates(foreign: Mapping[str, Any]) -> list[str]:
    return [name for name, rules in KEY_RULES.items() if rules.class_bias in foreign]


def _labels(
    labels: Sequence[str] | None, num_classes: int, checkpoint: Mapping[Any, Any], where: str
) -> tuple[str, ...]:
    if labels is not None:
        if len(labels) != num_classes:
            raise CheckpointError(f"{where} has {num_classes} classes, but {len(labels)} labels were given for them")
        return tuple(labels)
    named = mmdet.class_names(checkpoint)
    if named is not None and len(named) == num_classes:
        return named
    if num_classes != len(COCO_LABELS):
        raise CheckpointError(
            f"{where} has {num_classes} classes without names, COCO has {len(COCO_LABELS)}: give labels for them"
        )
    return COCO_LABELS
