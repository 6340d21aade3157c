"""The ATSS head of GLIP (Li et al., CVPR 2022): the tokens of class names are what its class layer looks for."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from dyzoo.config import GroundedATSSConfig
from dyzoo.model.heads.atss import ATSSHead
from dyzoo.model.heads.base import Raw
from dyzoo.model.heads.dense import flatten_levels

MAX_LOGIT = 50_000.0  # float16 ends at 65,504
SMALLEST = torch.finfo(torch.float32).tiny  # keeps log(0) out of certain answers


class GroundedATSSHead(ATSSHead):
    """ATSS with several outputs for a class, one for each token of its name.

    The probability of a class is the mean of its tokens' sigmoids, and its score the square root of that times
    centerness. Boxes end at the last pixel inside them where they are clipped and suppressed (mmdetection
    lets them reach out of an enlarged picture by less than a pixel; here they end at its edge). Decoding follows
    mmdetection's `ATSSVLFusionHead`. The losses are ATSS's on the classes: what is learnt is their probability, not
    that of each token, as GLIP's pretraining does; with one token for each class the two are the same.

    Args:
        config: layers, tokens, assignment, losses and decoding.
        channels: C of the features.
        num_classes: K.
        strides_px: of each level, finest first.

    Raises:
        ValueError: `config.tokens_per_class` is of another number of classes.
    """

    inclusive_corners = True

    def __init__(
        self, config: GroundedATSSConfig, channels: int, num_classes: int, strides_px: tuple[int, ...]
    ) -> None:
        counts = config.tokens_per_class or (1,) * num_classes
        if len(counts) != num_classes:
            raise ValueError(
                f"tokens_per_class has {len(counts)} counts, expected one for each of {num_classes} labels"
            )
        self.tokens_per_class = counts
        super().__init__(config, channels, num_classes, strides_px)

    @property
    def num_class_outputs(self) -> int:
        return sum(self.tokens_per_class)

    def forward(self, features: list[Tensor]) -> Raw:  # type: ignore[override]
        """As ATSS's, "cls" being (N, T, H, W), of T tokens."""
        raw = super().forward(features)
        return {**raw, "cls": [level.clamp(-MAX_LOGIT, MAX_LOGIT) for level in raw["cls"]]}

    def class_logits(self, raw: Raw) -> Tensor:
        """Those whose sigmoid is `class_probabilities`."""
        tokens = flatten_levels(raw["cls"])
        present, absent = (self._mean_of_tokens(logits.sigmoid()).clamp(min=SMALLEST) for logits in (tokens, -tokens))
        return present.log() - absent.log()

    def class_probabilities(self, raw: Raw) -> Tensor:
        return self._mean_of_tokens(flatten_levels(raw["cls"]).sigmoid())

    def score(self, probability: Tensor, centerness: Tensor) -> Tensor:
        """The square root of class probability times centerness."""
        return (probability * centerness).sqrt()

    def _mean_of_tokens(self, values: Tensor) -> Tensor:
        """(..., T) -> (..., K). First tokens, then second ones where there are any, and so on: no sum depends on the
        order in which threads come to it."""
        counts = torch.tensor(self.tokens_per_class, device=values.device)
        starts = torch.tensor([0, *accumulate(self.tokens_per_class)][:-1], device=values.device)
        total = values.index_select(-1, starts)
        for place in range(1, max(self.tokens_per_class)):
            longer = [index for index, count in enumerate(self.tokens_per_class) if count > place]
            classes = torch.tensor(longer, device=values.device)
            total = total.index_add(-1, classes, values.index_select(-1, starts[classes] + place))
        return total / counts
