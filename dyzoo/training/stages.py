"""The stages of a backbone, from its stem on: which of them learn, and how fast."""

from __future__ import annotations

from torch import nn

from dyzoo.errors import TrainingError
from dyzoo.model.backbones import Backbone


def stage_count(backbone: Backbone) -> int:
    """As many as timm knows maps of; where it has one of the stem, as in a ResNet, the stem is a stage of its own."""
    return len(backbone.model.feature_info.module_name())


def module_stages(backbone: Backbone) -> dict[str, int]:
    """The stage of every module of `backbone`, by its name, from 0; output norms belong to the last one."""
    names = [name.replace(".", "_") for name, _ in backbone.model.named_modules()]
    ends = []
    for feature in backbone.model.feature_info.module_name():
        flat = feature.replace(".", "_")
        inside = [place for place, name in enumerate(names) if name == flat or name.startswith(f"{flat}_")]
        ends.append(max(inside, default=0))
    last = len(ends) - 1
    stages = {
        f"model.{name}": min(sum(place > end for end in ends), last)
        for place, (name, _) in enumerate(backbone.model.named_modules())
        if name
    }
    return {name: stages.get(name, last) for name, _ in backbone.named_modules()}


def parameter_stages(backbone: Backbone) -> dict[str, int]:
    """The stage of every parameter, by its name in `backbone`."""
    stages = module_stages(backbone)
    return {name: stages[name.rpartition(".")[0]] for name, _ in backbone.named_parameters()}


class FrozenStages:
    """The first stages of a backbone, kept as they are: parameters, and the statistics of batch norms.

    Args:
        backbone: whose parameters stop learning.
        freeze: how many stages, or "backbone" for all of it.

    Raises:
        TrainingError: it has fewer.
    """

    def __init__(self, backbone: Backbone, freeze: int | str) -> None:
        available = stage_count(backbone)
        count = available if freeze == "backbone" else int(freeze)
        if count > available:
            raise TrainingError(f"{count} stages are to be frozen, {backbone.config.name} has {available}")
        for name, stage in parameter_stages(backbone).items():
            if stage < count:
                backbone.get_parameter(name).requires_grad_(False)
        self.norms: list[nn.Module] = [
            backbone.get_submodule(name)
            for name, stage in module_stages(backbone).items()
            if stage < count and isinstance(backbone.get_submodule(name), nn.modules.batchnorm._BatchNorm)
        ]

    def hold(self) -> None:
        """Call after `model.train()`, which lets batch norms learn again."""
        for norm in self.norms:
            norm.eval()
