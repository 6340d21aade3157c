"""A language model of a few pieces and channels."""

from __future__ import annotations

import torch

from dyzoo.grounding import LanguageModel, WordPiece
from dyzoo.grounding.bert import BertSize

PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", "red", "blood", "cell", "##s", "un", "##aff", "##able", "cafe", "-")
SIZE = BertSize(vocabulary=len(PIECES), channels=24, layers=2, heads=3, hidden=40, positions=256)


def tiny_tokenizer() -> WordPiece:
    return WordPiece({piece: index for index, piece in enumerate(PIECES)})


def tiny_language(channels: int) -> LanguageModel:
    """Weights under which tokens differ and logits are on both sides of 0."""
    torch.manual_seed(0)
    model = LanguageModel(channels, SIZE).eval()
    with torch.no_grad():
        model.log_scale.fill_(-0.5)
        model.bias0.fill_(-0.3)
        model.bias_lang.normal_()
        model.projection.weight.normal_()
    return model
