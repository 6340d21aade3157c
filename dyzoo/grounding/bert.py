"""BERT's encoder (Devlin et al., NAACL 2019), written out in place of the `transformers` package: a caption needs no
more than this, and a checkpoint's own weights fill it."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-12


@dataclass(frozen=True)
class BertSize:
    """Sizes of the model; the defaults are BERT-base's, with the uncased vocabulary."""

    vocabulary: int = 30522
    channels: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072  # between the two linear maps of a layer
    positions: int = 512  # tokens of a text, at most


BERT_BASE = BertSize()


class Bert(nn.Module):
    """Tokens -> one vector for each, of the last hidden layer; there is no pooler."""

    def __init__(self, size: BertSize = BERT_BASE) -> None:
        super().__init__()
        self.words = nn.Embedding(size.vocabulary, size.channels)
        self.positions = nn.Embedding(size.positions, size.channels)
        self.sentences = nn.Embedding(2, size.channels)  # which of two a token is of; a caption is the first
        self.norm = nn.LayerNorm(size.channels, NORM_EPS)
        self.layers = nn.ModuleList(Layer(size) for _ in range(size.layers))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (N, T) int64 of texts of one length -> (N, T, C)."""
        hidden = self.words(tokens) + self.positions.weight[: tokens.shape[1]] + self.sentences.weight[0]
        hidden = self.norm(hidden)
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


class Layer(nn.Module):
    """Attention of every token to all of them, then two linear maps with GELU between; each is added and normalised."""

    def __init__(self, size: BertSize) -> None:
        super().__init__()
        channels = size.channels
        self.heads = size.heads
        self.query, self.key, self.value, self.mix = (nn.Linear(channels, channels) for _ in range(4))
        self.mix_norm = nn.LayerNorm(channels, NORM_EPS)
        self.widen = nn.Linear(channels, size.hidden)
        self.narrow = nn.Linear(size.hidden, channels)
        self.narrow_norm = nn.LayerNorm(channels, NORM_EPS)

    def forward(self, hidden: Tensor) -> Tensor:
        """(N, T, C) -> (N, T, C)."""
        query, key, value = (
            part(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )  # (N, heads, T, C / heads)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        hidden = self.mix_norm(self.mix(attended) + hidden)
        return self.narrow_norm(self.narrow(F.gelu(self.widen(hidden))) + hidden)
