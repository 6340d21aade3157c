"""Checkpoints of mmdetection's GLIP-T (A), whose classes are text: any names become a detector's class layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from dyzoo.checkpoints.mmdet import CONSTANTS, SWIN, pyramid
from dyzoo.checkpoints.rules import KeyRules, Rule
from dyzoo.config import DetectorConfig
from dyzoo.config.architectures import ARCHITECTURES
from dyzoo.grounding import LanguageModel, bert_tokenizer, write_captions
from dyzoo.model.detector import Detector

_HEAD = "bbox_head.head."
_DYHEAD = f"{_HEAD}dyhead_tower.{{0}}"
_BERT = "language_model.language_backbone.body.model."
_BRANCHES = range(3)  # high, mid, low: the order of dyconvs and of our stacked parameters
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


def ground(foreign: Mapping[str, object], source: str, labels: Sequence[str], where: str) -> tuple[Detector, list[str]]:
    """A detector for classes of these names, and the keys of the checkpoint that were ignored.

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
    captions = write_captions(labels, bert_tokenizer())
    config = _config(source, labels, [end - start for caption in captions for start, end in caption.spans])
    detector = Detector(config)
    with torch.device("meta"):  # only names and shapes are asked for
        language = LanguageModel(config.dyhead.channels)
    own = {name: value for name, value in detector.state_dict().items() if not name.startswith("head.cls.")}
    own |= {f"{_LANGUAGE}{name}": value for name, value in language.state_dict().items()}
    weights, ignored = KEY_RULES[source].translate(foreign, own, where)
    of_language = {name: weights.pop(f"{_LANGUAGE}{name}").float() for name in language.state_dict()}
    language.load_state_dict(of_language, assign=True)
    layer = language.fold(captions)
    detector.load_weights({**weights, "head.cls.weight": layer.weight, "head.cls.bias": layer.bias}, where)
    return detector, ignored


def _config(source: str, labels: Sequence[str], tokens_per_class: Sequence[int]) -> DetectorConfig:
    config = ARCHITECTURES[source]()
    head = replace(config.head, tokens_per_class=tuple(tokens_per_class))  # type: ignore[call-arg]
    return replace(config, labels=tuple(labels), head=head)
