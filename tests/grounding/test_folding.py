"""The folded layer says what the language model and the features say together."""

from __future__ import annotations

import torch

from dyzoo.config import GroundedATSSConfig
from dyzoo.grounding import Caption, LanguageModel, write_captions
from dyzoo.model.heads import build_head
from tests.grounding.tiny_language import tiny_language, tiny_tokenizer

CHANNELS = 16
NAMES = ["red blood cells", "cell", "unaffable cafe"]


def slow_logit(model: LanguageModel, caption: Caption, token: int, features: torch.Tensor) -> torch.Tensor:
    """Logit of one token at one position (C,), as it is written in the paper."""
    hidden = model.bert(torch.tensor([caption.tokens]))[0, token]
    embedded = hidden / hidden.norm()
    word = model.projection.weight @ (embedded / 2) + model.projection.bias
    return features @ word / model.log_scale.exp() + embedded @ model.bias_lang + model.bias0


@torch.no_grad()
def test_folding_is_the_unfolded_computation() -> None:
    model = tiny_language(CHANNELS)
    (caption,) = write_captions(NAMES, tiny_tokenizer())
    layer = model.fold([caption])
    assert layer.tokens_per_class == (4, 1, 4)
    config = GroundedATSSConfig(tokens_per_class=layer.tokens_per_class)
    head = build_head(config, CHANNELS, len(NAMES), (8,)).eval()
    head.cls.load_state_dict({"weight": layer.weight, "bias": layer.bias})
    features = torch.randn(2, CHANNELS, 3, 4)
    raw = head([features])
    probabilities = head.class_probabilities(raw).view(2, 3, 4, 3)
    for image, row, column in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(4)).tolist():
        position = features[image, :, row, column]
        outputs = raw["cls"][0][image, :, row, column].split(layer.tokens_per_class)
        for label, (start, end) in enumerate(caption.spans):
            logits = torch.cat([slow_logit(model, caption, token, position) for token in range(start, end)])
            torch.testing.assert_close(outputs[label], logits, rtol=1e-4, atol=1e-4)
            expected = sum(1 / (1 + torch.exp(-logit)) for logit in logits) / len(logits)
            torch.testing.assert_close(probabilities[image, row, column, label], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_every_caption_is_read_by_itself() -> None:
    model, tokenizer = tiny_language(CHANNELS), tiny_tokenizer()
    captions = [*write_captions(NAMES[:2], tokenizer), *write_captions(NAMES[2:], tokenizer)]
    both, first, second = model.fold(captions), model.fold(captions[:1]), model.fold(captions[1:])
    assert torch.equal(both.weight, torch.cat([first.weight, second.weight]))
    assert torch.equal(both.bias, torch.cat([first.bias, second.bias]))
    assert both.tokens_per_class == first.tokens_per_class + second.tokens_per_class
    (together,) = write_captions(NAMES, tokenizer)
    assert not torch.allclose(model.fold([together]).weight, both.weight), "tokens attend over their whole caption"
