"""Parameter groups and the learning-rate schedule."""

from __future__ import annotations

import math

from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from dyzoo.config.training import ResolvedConfig
from dyzoo.model.detector import Detector
from dyzoo.training.stages import parameter_stages, stage_count

REFERENCE_BATCH_SIZE = 16
FEWEST_WARMUP_STEPS = 100

# Norms and biases that a block holds itself; tables of positions, as in the recipes of Swin and ViT.
_WITHOUT_DECAY = (
    *("norm_weight", "norm_bias", "conv_bias"),
    *("relative_position_bias_table", "pos_embed", "rel_pos_h", "rel_pos_w", "logit_scale"),
)


def lr_factor(step: int, total_steps: int, warmup_steps: int, final_factor: float) -> float:
    """Share of the peak learning rate at `step`: linear warm-up, then half a cosine down to `final_factor`."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
    return final_factor + (1 - final_factor) * (1 + math.cos(math.pi * progress)) / 2


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
    total_steps = config.epochs * steps_per_epoch
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    if warmup_steps:  # an epoch of a few images is too short for Adam's second moments
        warmup_steps = max(warmup_steps, min(FEWEST_WARMUP_STEPS, total_steps // 10))
    return LambdaLR(optimizer, lambda step: lr_factor(step, total_steps, warmup_steps, config.final_lr_factor))
