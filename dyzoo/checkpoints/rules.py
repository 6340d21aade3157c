"""Where another code base keeps each tensor of a `Detector`: tables of names, and how they are carried out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dyzoo.checkpoints.reading import as_tensor
from dyzoo.errors import CheckpointError

# State of a detector that no checkpoint brings and no answer depends on; a new detector's value stays.
_OWN_STATE = re.compile(r".*\.num_batches_tracked|head\.loss_normalizer")


@dataclass(frozen=True)
class Rule:
    """The place of some of a detector's tensors in a foreign checkpoint.

    Attributes:
        own: names in `Detector.state_dict()`. `#` stands for a number, `*` for a word, `**` for anything.
        foreign: the key, `{0}`, `{1}`, ... being what the wildcards stood for. Several keys are the slices of the
            detector's tensor along its first axis.
        leading, trailing: axes of size 1 that each foreign tensor has before and behind.
        change: reorders the values of a foreign tensor, keeping its shape.
    """

    own: str
    foreign: str | tuple[str, ...]
    leading: int = 0
    trailing: int = 0
    change: Callable[[Tensor], Tensor] | None = None

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The regular expression that `own` is short for."""
        text = re.escape(self.own)  # escapes # and *
        for wildcard, expression in ((r"\*\*", "(.+)"), (r"\*", "([a-z_]+)"), (r"\#", r"(\d+)")):
            text = text.replace(wildcard, expression)
        return re.compile(text)

    def keys(self, name: str) -> tuple[str, ...] | None:
        """Foreign keys of the tensor `name`, None where the rule is not about it."""
        match = self.pattern.fullmatch(name)
        if match is None:
            return None
        templates = (self.foreign,) if isinstance(self.foreign, str) else self.foreign
        return tuple(template.format(*match.groups()) for template in templates)


@dataclass(frozen=True)
class KeyRules:
    """A code base's keys for one detector.

    Attributes:
        rules: exactly one for every tensor of the detector, those of `_OWN_STATE` apart.
        constants: expressions for keys whose values follow from the configuration; accepted, not read.
        class_bias: key of the classification layer's bias; where text makes that layer, of what text adds to its bias.
        outputs_per_class: A where the layer predicts for A anchors.
        background: 1 where the layer has an output for it.
    """

    rules: tuple[Rule, ...]
    constants: tuple[str, ...]
    class_bias: str
    outputs_per_class: int = 1
    background: int = 0

    def num_classes(self, foreign: Mapping[str, object], where: str) -> int:
        """K of a checkpoint that `where` names in errors.

        Raises:
            CheckpointError: the classification layer has an impossible number of outputs.
        """
        bias = as_tensor(foreign[self.class_bias], f"{where}: {self.class_bias!r}")
        outputs = bias.numel() - self.background
        if bias.ndim != 1 or outputs < 1 or outputs % self.outputs_per_class:
            raise CheckpointError(
                f"{where}: {self.class_bias!r} is {tuple(bias.shape)}, expected one axis with "
                f"{self.outputs_per_class} outputs for each class{' and one for the background' * self.background}"
            )
        return outputs // self.outputs_per_class

    def translate(
        self, foreign: Mapping[str, object], own: Mapping[str, Tensor], where: str
    ) -> tuple[dict[str, Tensor], list[str]]:
        """Every tensor of a detector from a foreign state dict.

        Args:
            foreign: the state dict.
            own: that of a new detector, for names and shapes.
            where: leads error messages.

        Returns:
            The detector's state dict, and the keys that were ignored.

        Raises:
            CheckpointError: a key is missing or unknown, or a tensor has another shape.
        """
        places = {name: self._place(name) for name in own if not _OWN_STATE.fullmatch(name)}
        expected = {key for _, keys in places.values() for key in keys}
        ignored = [key for key in foreign if key not in expected and self._is_constant(key)]
        missing = [key for _, keys in places.values() for key in keys if key not in foreign]
        unknown = [key for key in foreign if key not in expected and key not in ignored]
        if faults := [
            f"{verb} {keys[0]!r}" + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")
            for verb, keys in (("lacks", missing), ("has the unknown", unknown))
            if keys
        ]:
            raise CheckpointError(f"{where} {' and '.join(faults)}: it is of another detector, or not whole")
        weights = {name: own[name] for name in own if name not in places}
        for name, (rule, keys) in places.items():
            parts = [_read(foreign[key], rule, own[name].shape[len(keys) > 1 :], f"{where}: {key!r}") for key in keys]
            weights[name] = torch.stack(parts) if len(parts) > 1 else parts[0]
        return weights, ignored

    def _place(self, name: str) -> tuple[Rule, tuple[str, ...]]:
        places = [(rule, keys) for rule in self.rules if (keys := rule.keys(name)) is not None]
        if len(places) != 1:
            raise LookupError(f"{len(places)} rules for {name!r}, expected one")
        return places[0]

    def _is_constant(self, key: str) -> bool:
        return any(re.fullmatch(expression, key) for expression in self.constants)


def _read(value: object, rule: Rule, shape: torch.Size, where: str) -> Tensor:
    tensor = as_tensor(value, where)
    expected = (*[1] * rule.leading, *shape, *[1] * rule.trailing)
    if tuple(tensor.shape) != expected:
        raise CheckpointError(f"{where} is {tuple(tensor.shape)}, expected {expected}: it is of another detector")
    return (rule.change(tensor) if rule.change else tensor).reshape(shape)
