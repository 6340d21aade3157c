"""Which parameters learn, and how fast: the stages of the backbone, the optimizer and its learning rates."""

from __future__ import annotations

import math

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from dyzoo.config.training import ResolvedConfig
from dyzoo.errors import TrainingError
from dyzoo.model.backbones import Backbone
from dyzoo.model.detector import Detector

REFERENCE_BATCH_SIZE = 16
FEWEST_WARMUP_STEPS = 100

# Norms and biases that a block holds itself; tables of positions, as in the recipes of Swin and ViT.
_WITHOUT_DECAY = (
    *("norm_weight", "norm_bias", "conv_bias"),
    *("relative_position_bias_table", "pos_embed", "rel_pos_h", "rel_pos_w", "logit_scale"),
)


def stage_count(backbone: Backbone) -> int:
    """Number of maps that timm knows; where one is the stem's, as in a ResNet, the stem is a stage of its own."""
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


def build_optimizer(model: Detector, config: ResolvedConfig, batch_size: int) -> AdamW:
    """AdamW without weight decay on biases, norms, other vectors and position tables; the backbone at its own rate.

    Args:
        model: whose parameters learn, unless they are frozen.
        config: rates and decay.
        batch_size: images in a step, over all batches and processes.
    """
    lr = config.lr * batch_size / REFERENCE_BATCH_SIZE
    stages = {f"backbone.{name}": stage for name, stage in parameter_stages(model.backbone).items()}
    last = stage_count(model.backbone) - 1
    rates = [config.backbone_lr_factor * config.layer_decay ** (last - stage) for stage in range(last + 1)]
    apart = sorted(set(stages.values())) if config.layer_decay < 1 else [None]
    groups = []
    for in_backbone, stage in (*((True, stage) for stage in apart), (False, None)):
        for decayed in (True, False):
            parameters = [
                parameter
                for name, parameter in model.named_parameters()
                if parameter.requires_grad
                and (name in stages) == in_backbone
                and (stage is None or stages[name] == stage)
                and (parameter.ndim > 1 and not name.endswith(_WITHOUT_DECAY)) == decayed
            ]
            if parameters:
                rate = lr * (rates[last if stage is None else stage] if in_backbone else 1.0)
                groups.append({"params": parameters, "lr": rate, "weight_decay": config.weight_decay * decayed})
    return AdamW(groups)


def build_schedule(optimizer: AdamW, config: ResolvedConfig, steps_per_epoch: int) -> LambdaLR:
    """The schedule of the whole run."""
    total_steps, warmup = config.epochs * steps_per_epoch, warmup_steps(config, steps_per_epoch)
    return LambdaLR(optimizer, lambda step: lr_factor(step, total_steps, warmup, config.final_lr_factor))


def warmup_steps(config: ResolvedConfig, steps_per_epoch: int) -> int:
    """Number of steps in which the learning rate rises."""
    steps = round(config.warmup_epochs * steps_per_epoch)
    if not steps:
        return 0
    # an epoch of a few images is too short for Adam's second moments
    return max(steps, min(FEWEST_WARMUP_STEPS, config.epochs * steps_per_epoch // 10))


def lr_factor(step: int, total_steps: int, warmup_steps: int, final_factor: float) -> float:
    """Share of the peak learning rate at `step`: linear warm-up, then half a cosine down to `final_factor`."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
    return final_factor + (1 - final_factor) * (1 + math.cos(math.pi * progress)) / 2
