"""Checkpoints of mmdetection's GLIP-T (A), whose classes are text: any names become a detector's class layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from dyzoo.checkpoints.mmdet import CONSTANTS, SWIN, pyramid
from dyzoo.checkpoints.rules import KeyRules, Rule
from dyzoo.config import DetectorConfig
from dyzoo.config.architectures import ARCHITECTURES
from dyzoo.grounding import Caption, LanguageModel, bert_tokenizer, write_captions
from dyzoo.model.detector import Detector

_HEAD = "bbox_head.head."
_DYHEAD = f"{_HEAD}dyhead_tower.{{0}}"
_BERT = "language_model.language_backbone.body.model."
_BRANCHES = range(3)  # high, mid, low: the order of dyconvs and of our stacked parameters
_CLASS_LAYER = "head.cls."
_LANGUAGE = "language."  # leads the names of the language model's tensors in the rules

DYHEAD = (
    Rule("dyhead.blocks.#.conv_*", tuple(f"{_DYHEAD}.dyconvs.{branch}.conv.{{1}}" for branch in _BRANCHES)),
    Rule("dyhead.blocks.#.norm_*", tuple(f"{_DYHEAD}.dyconvs.{branch}.bn.{{1}}" for branch in _BRANCHES)),
    Rule("dyhead.blocks.#.offset_*", f"{_DYHEAD}.offset.{{1}}"),
    Rule("dyhead.blocks.#.scale_weight", f"{_DYHEAD}.attnconv.1.weight", leading=1, trailing=2),  # a 1x1 convolution
    Rule("dyhead.blocks.#.scale_bias", f"{_DYHEAD}.attnconv.1.bias"),
    Rule("dyhead.blocks.#.relu_*1", f"{_DYHEAD}.relu.fc.0.{{1}}"),
    Rule("dyhead.blocks.#.relu_*2", f"{_DYHEAD}.relu.fc.2.{{1}}"),
)
ATSS = (
    Rule("head.box.*", f"{_HEAD}bbox_pred.{{0}}"),
    Rule("head.centerness.*", f"{_HEAD}centerness.{{0}}"),
    Rule("head.box_scales", tuple(f"{_HEAD}scales.{level}.scale" for level in range(5))),
)
LANGUAGE = (
    *(
        Rule(f"{_LANGUAGE}bert.{own}.*", f"{_BERT}embeddings.{foreign}.{{0}}")
        for own, foreign in [
            ("words", "word_embeddings"),
            ("positions", "position_embeddings"),
            ("sentences", "token_type_embeddings"),
            ("norm", "LayerNorm"),
        ]
    ),
    *(
        Rule(f"{_LANGUAGE}bert.layers.#.{own}.*", f"{_BERT}encoder.layer.{{0}}.{foreign}.{{1}}")
        for own, foreign in [
            ("query", "attention.self.query"),
            ("key", "attention.self.key"),
            ("value", "attention.self.value"),
            ("mix", "attention.output.dense"),
            ("mix_norm", "attention.output.LayerNorm"),
            ("widen", "intermediate.dense"),
            ("narrow", "output.dense"),
            ("narrow_norm", "output.LayerNorm"),
        ]
    ),
    Rule(f"{_LANGUAGE}projection.*", f"{_HEAD}dot_product_projection_text.{{0}}"),
    *(Rule(f"{_LANGUAGE}{name}", f"{_HEAD}{name}") for name in ("log_scale", "bias_lang", "bias0")),
)
KEY_RULES = {
    "mmdet_glip_t_a": KeyRules(
        (*SWIN, *pyramid("neck"), *DYHEAD, *ATSS, *LANGUAGE),
        (*CONSTANTS, rf"{_BERT}embeddings\.(position_ids|token_type_ids)", rf"{_BERT}pooler\.dense\.(weight|bias)"),
        f"{_HEAD}bias_lang",
    )
}


class Grounded(NamedTuple):
    """A detector whose classes are words, what reads others for it, and the checkpoint's keys that were ignored."""

    detector: Detector
    language: LanguageModel
    ignored: list[str]


def ground(foreign: Mapping[str, object], source: str, labels: Sequence[str], where: str) -> Grounded:
    """A detector for classes of these names, from a checkpoint.

    The language model reads the names once, here; what it has made of them is the detector's class layer. Names that
    need several captions are classes of one detector all the same: how many candidates and detections an image has at
    most is a limit for all of them, where mmdetection (`chunked_size`) has it for each caption.

    Args:
        foreign: the checkpoint's state dict.
        source: one of `KEY_RULES`.
        labels: any names; see `write_captions`.
        where: leads error messages.

    Raises:
        LabelError: a name cannot be used.
        CheckpointError: a key is missing or unknown, or a tensor has another shape.
    """
    captions = read_names(labels)
    detector = _empty(ARCHITECTURES[source](), labels, captions)
    with torch.device("meta"):  # only names and shapes are asked for
        language = LanguageModel(detector.config.dyhead.channels)
    own = _without_classes(detector)
    own |= {f"{_LANGUAGE}{name}": value for name, value in language.state_dict().items()}
    weights, ignored = KEY_RULES[source].translate(foreign, own, where)
    language.take_weights({name: weights.pop(f"{_LANGUAGE}{name}") for name in language.state_dict()})
    return Grounded(_filled(detector, weights, language, captions, where), language, ignored)


def with_words(
    source: Detector, language: LanguageModel, labels: Sequence[str], captions: Sequence[Caption]
) -> Detector:
    """The same detector for classes of other names: what `ground` makes of the checkpoint with these.

    Args:
        source: what `ground` has made with any names; it stays as it is.
        language: that of the same checkpoint.
        labels: the names.
        captions: that `read_names` makes of them.

    Raises:
        CheckpointError: the weights are no numbers.
    """
    detector = _empty(source.config, labels, captions)
    return _filled(detector, _without_classes(source), language, captions, f"{source.config.architecture} with words")


def read_names(labels: Sequence[str]) -> list[Caption]:
    """Captions of class names, as the language model of these checkpoints reads them; raises as `write_captions`."""
    return write_captions(labels, bert_tokenizer())


def _empty(config: DetectorConfig, labels: Sequence[str], captions: Sequence[Caption]) -> Detector:
    tokens = tuple(end - start for caption in captions for start, end in caption.spans)
    head = replace(config.head, tokens_per_class=tokens)  # type: ignore[call-arg]
    return Detector(replace(config, labels=tuple(labels), head=head))


def _without_classes(detector: Detector) -> dict[str, Tensor]:
    return {name: value for name, value in detector.state_dict().items() if not name.startswith(_CLASS_LAYER)}


def _filled(
    detector: Detector,
    weights: Mapping[str, Tensor],
    language: LanguageModel,
    captions: Sequence[Caption],
    where: str,
) -> Detector:
    layer = language.fold(captions)
    detector.load_weights({**weights, f"{_CLASS_LAYER}weight": layer.weight, f"{_CLASS_LAYER}bias": layer.bias}, where)
    return detector.eval()
