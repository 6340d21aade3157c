"""BERT's encoder (Devlin et al., NAACL 2019), written out: what a caption needs is this much, without `transformers`,
which is large and whose versions differ in what they save. Names of parameters are those of its `BertModel`."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-12


@dataclass(frozen=True)
class BertSize:
    """Sizes of the model; the defaults are bert-base-uncased's."""

    vocabulary: int = 30522
    channels: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072  # between the two linear maps of a layer
    positions: int = 512  # tokens of a text, at most


class Bert(nn.Module):
    """Tokens -> one vector for each, of the last hidden layer; there is no pooler."""

    def __init__(self, size: BertSize = BertSize()) -> None:  # noqa: B008 (frozen)
        super().__init__()
        self.embeddings = Embeddings(size)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(size) for _ in range(size.layers))})

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (N, T) int64 of texts of one length -> (N, T, C)."""
        hidden = self.embeddings(tokens)
        for layer in self.encoder["layer"]:  # type: ignore[union-attr]
            hidden = layer(hidden)
        return hidden


class Embeddings(nn.Module):
    """The sum of a token's vector, its position's and that of the first kind of sentence, normalised."""

    def __init__(self, size: BertSize) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(size.vocabulary, size.channels)
        self.position_embeddings = nn.Embedding(size.positions, size.channels)
        self.token_type_embeddings = nn.Embedding(2, size.channels)
        self.LayerNorm = nn.LayerNorm(size.channels, NORM_EPS)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T) -> (N, T, C)."""
        positions = self.position_embeddings.weight[: tokens.shape[1]]
        return self.LayerNorm(self.word_embeddings(tokens) + positions + self.token_type_embeddings.weight[0])


class Layer(nn.Module):
    """Attention of every token to all of them, then two linear maps with GELU between; each is added and normalised."""

    def __init__(self, size: BertSize) -> None:
        super().__init__()
        attention = {name: nn.Linear(size.channels, size.channels) for name in ("query", "key", "value")}
        self.attention = nn.ModuleDict({"self": nn.ModuleDict(attention), "output": Output(size.channels, size)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(size.channels, size.hidden)})
        self.output = Output(size.hidden, size)
        self.heads = size.heads

    def forward(self, hidden: Tensor) -> Tensor:
        """(N, T, C) -> (N, T, C)."""
        maps = self.attention["self"]
        query, key, value = (
            maps[name](hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # type: ignore[index]
            for name in ("query", "key", "value")
        )  # (N, heads, T, C / heads)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        hidden = self.attention["output"](attended, hidden)
        return self.output(F.gelu(self.intermediate["dense"](hidden)), hidden)


class Output(nn.Module):
    """A linear map, added to what it is the answer to, and normalised."""

    def __init__(self, channels: int, size: BertSize) -> None:
        super().__init__()
        self.dense = nn.Linear(channels, size.channels)
        self.LayerNorm = nn.LayerNorm(size.channels, NORM_EPS)

    def forward(self, values: Tensor, before: Tensor) -> Tensor:
        """(N, T, channels) and (N, T, C) -> (N, T, C)."""
        return self.LayerNorm(self.dense(values) + before)
