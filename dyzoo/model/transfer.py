"""Starting from a trained detector whose classes are others: those of the same name keep what they have learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dyzoo.config import FasterRCNNConfig
from dyzoo.errors import TrainingError
from dyzoo.model.detector import Detector


class Transfer(NamedTuple):
    """Classes of the new detector, by whether the starting one knows them."""

    kept: tuple[str, ...]
    new: tuple[str, ...]


@torch.no_grad()
def start_from(model: Detector, source: Detector) -> Transfer:
    """Fill the model with the source's weights; the layers that tell classes apart, class by class.

    A class that the source does not know keeps the weights it was initialised with.

    Raises:
        TrainingError: the two differ in more than their classes.
    """
    known = {label: index for index, label in enumerate(source.labels)}
    pairs = [(index, known[label]) for index, label in enumerate(model.labels) if label in known]
    own, given = model.state_dict(), source.state_dict()
    by_class = _class_layouts(model)
    for name, value in own.items():
        layout = by_class.get(name)
        fits = name in given and (given[name].shape == value.shape if layout is None else True)
        if not fits or own.keys() != given.keys():
            raise TrainingError(
                f"the weights to start from are of another architecture ({source.config.architecture}, other {name}): "
                "train that one, or leave --weights out"
            )
        if layout is None:
            value.copy_(given[name])
            continue
        target, origin = (
            _by_class(weights, _class_layouts(detector)[name], len(detector.labels))
            for weights, detector in ((value, model), (given[name], source))
        )
        for index, other in pairs:
            target[index].copy_(origin[other])
        if layout.background:
            value[-1] = given[name][-1]
    kept = tuple(model.labels[index] for index, _ in pairs)
    return Transfer(kept, tuple(label for label in model.labels if label not in known))


class _Layout(NamedTuple):
    """Rows of a layer: `groups` times (classes, `per_class`), and one of background at the end; or `tokens` of each."""

    groups: int = 1
    per_class: int = 1
    background: bool = False
    tokens: tuple[int, ...] = ()


def _class_layouts(model: Detector) -> dict[str, _Layout]:
    if isinstance(model.config.head, FasterRCNNConfig):
        layers = {"head.roi.cls": _Layout(background=True), "head.roi.box": _Layout(per_class=4)}
    else:
        groups, tokens = getattr(model.head, "anchors_per_position", 1), getattr(model.head, "tokens_per_class", ())
        layers = {"head.cls": _Layout(groups=groups, tokens=tokens)}
    return {f"{layer}.{kind}": layout for layer, layout in layers.items() for kind in ("weight", "bias")}


def _by_class(weights: Tensor, layout: _Layout, classes: int) -> Sequence[Tensor]:
    """The rows of each class: views of (rows, ...)."""
    if layout.tokens:
        return weights.split(list(layout.tokens))
    rows = layout.groups * classes * layout.per_class
    return weights[:rows].unflatten(0, (layout.groups, classes, layout.per_class)).unbind(1)
