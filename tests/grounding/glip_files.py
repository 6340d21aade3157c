"""Checkpoints of GLIP-T (A) made up: a file of the published size, and a small conversion in its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from dyzoo.checkpoints import ConvertedCheckpoint
from dyzoo.checkpoints.conversion import KEY_RULES
from dyzoo.checkpoints.glip import read_names, with_words
from dyzoo.config import BackboneConfig, DyHeadConfig, FPNConfig
from dyzoo.config.architectures import ARCHITECTURES
from dyzoo.config.labels import COCO_LABELS
from dyzoo.grounding import LanguageModel
from dyzoo.grounding.bert import BertSize
from dyzoo.model.detector import Detector

GLIP = "mmdet_glip_t_a"
TINY = BertSize(channels=24, layers=2, heads=3, hidden=40, positions=256)
"""A language model that knows all words of the real one."""


def write_glip(path: Path) -> Path:
    """A file as it is published, the bare weights; its keys come from the rules that read it."""
    own = Detector(ARCHITECTURES[GLIP]()).state_dict()
    with torch.device("meta"):
        own |= {f"language.{name}": value for name, value in LanguageModel().state_dict().items()}
    generator, weights = torch.Generator().manual_seed(0), {}
    for rule in KEY_RULES[GLIP].rules:
        for name, value in own.items():
            keys = rule.keys(name) or ()
            shape = (*[1] * rule.leading, *value.shape[len(keys) > 1 :], *[1] * rule.trailing)
            weights |= {key: 0.05 * torch.randn(shape, generator=generator) for key in keys}
    torch.save(weights, path)
    return path


def tiny_glip() -> ConvertedCheckpoint:
    """The detector that the converter makes of a file with COCO's names, but small; scores are high everywhere."""
    torch.manual_seed(0)
    config = ARCHITECTURES[GLIP]()
    small = replace(
        config,
        backbone=BackboneConfig("resnet10t"),
        fpn=FPNConfig(channels=32),
        dyhead=DyHeadConfig(channels=32, num_blocks=1, offset_mode="flat"),
        preprocess=replace(config.preprocess, shortest_edge=64, longest_edge=128),
    )
    language = LanguageModel(32, TINY).eval()
    with torch.no_grad():
        for parameter in language.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.5)
        language.bias0.fill_(1.0)
    detector = with_words(Detector(small), language, COCO_LABELS, read_names(COCO_LABELS))
    return ConvertedCheckpoint(detector, 1, (), language)
