"""Words for a first training that disappoints: why the detector has learnt next to nothing, and what to do."""

from __future__ import annotations

from dyzoo.config.training import ResolvedConfig

NOTHING_LEARNT = 0.01
"""AP below which a detector finds next to nothing."""

FEW_STEPS = 500
"""Updates of the weights in which a detector that starts without another's learns little."""


def hints(config: ResolvedConfig, ap: float | None, steps: int, warmup_steps: int) -> list[str]:
    """A line for each reason that a run gives for an AP of about 0, none for a better one.

    Args:
        config: settings of the run.
        ap: the best one, in 0..1.
        steps: updates of the weights in the run.
        warmup_steps: how many of them the learning rate takes to rise.
    """
    if ap is not None and ap >= NOTHING_LEARNT:
        return []
    lines = []
    if steps < max(FEW_STEPS, 2 * warmup_steps):
        lines.append(
            f"{steps} steps are few to learn from, {min(warmup_steps, steps)} of them were warm-up: train for more "
            f"epochs than {config.epochs} (--epochs)"
        )
    if config.weights is None:
        if not config.pretrained_backbone and config.backbone_weights is None:
            lines.append(
                "the backbone began with random weights: leave out --no-pretrained-backbone, or give a file of "
                "weights (--backbone-weights)"
            )
        lines.append("a trained detector is a better start, also one of other classes: --weights, see `dyzoo list`")
    if not lines or steps >= FEW_STEPS:
        lines.append("see whether boxes and classes are right: `dyzoo data check` draws them")
    shown = "0" if not ap else f"{ap:.4f}"
    return [f"AP {shown}: the detector finds next to nothing", *lines]
