"""GLIP's language side (Li et al., CVPR 2022) without fusion, folded into the weights of a convolution.

A token's vector h gives e = h / |h|, and to a position's features x the logit

    x . (W (e / 2) + b) / exp(log_scale) + e . bias_lang + bias0

which is a 1x1 convolution with an output for each token. As mmdetection's `VLFusionModule` computes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyzoo.grounding.bert import BERT_BASE, Bert, BertSize
from dyzoo.grounding.captions import Caption


class TokenLayer(NamedTuple):
    """A class layer with outputs for the tokens of the class names, those of a class next to each other."""

    weight: Tensor  # (T, C, 1, 1) float32
    bias: Tensor  # (T,) float32
    tokens_per_class: tuple[int, ...]


class LanguageModel(nn.Module):
    """From captions to the layer that looks for what they name.

    Args:
        channels: C of the features that the layer is applied to.
        size: of the language model.
    """

    def __init__(self, channels: int = 256, size: BertSize = BERT_BASE) -> None:
        super().__init__()
        self.bert = Bert(size)
        self.projection = nn.Linear(size.channels, channels)
        self.log_scale = nn.Parameter(torch.zeros(1))
        self.bias_lang = nn.Parameter(torch.zeros(size.channels))
        self.bias0 = nn.Parameter(torch.zeros(1))

    def take_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Fill the model, whatever device it is on, as float32 in memory of its own.

        How a file aligns its tensors would be seen in the last bits of sums over them.

        Raises:
            RuntimeError: one is missing, unknown or of another shape.
        """
        own = {
            name: value.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
            for name, value in weights.items()
        }
        self.load_state_dict(own, assign=True)

    @torch.no_grad()
    def fold(self, captions: Sequence[Caption]) -> TokenLayer:
        """The layer for all names of all captions, in order; each caption is read by itself."""
        layers = [self._fold(caption) for caption in captions]
        counts = [end - start for caption in captions for start, end in caption.spans]
        weight, bias = (torch.cat(parts) for parts in zip(*layers, strict=True))
        return TokenLayer(weight, bias, tuple(counts))

    def _fold(self, caption: Caption) -> tuple[Tensor, Tensor]:
        hidden = self.bert(torch.tensor([caption.tokens], device=self.bias0.device))[0]  # (tokens, channels of BERT)
        of_names = [place for start, end in caption.spans for place in range(start, end)]
        embedded = F.normalize(hidden[of_names], dim=-1)
        weight = self.projection(embedded / 2) / self.log_scale.exp()
        return weight[:, :, None, None], embedded @ self.bias_lang + self.bias0
