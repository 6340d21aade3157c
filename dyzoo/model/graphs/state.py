"""Whether a model is the one that a CUDA graph was captured from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from operator import attrgetter, is_
from typing import Any

from torch import Tensor, nn

_PLAIN = (Tensor, nn.Parameter)  # others compute in ways of their own, or lie elsewhere
_PLACE: tuple[Callable[[Tensor], Any], ...] = (Tensor.data_ptr, Tensor.numel)
_of_a_version = attrgetter("_version")


class NetworkState:
    """All that a model's evaluation depends on: modules, their attributes and hooks, and its weights.

    A graph reads weights where they lay when it was captured, and whatever was derived from them before. So weights
    count as others as soon as they are written to, and when they move. All is looked at before every replay: without
    recursion, in few steps of the interpreter.

    The model itself is not referred to, so that it can go; its parts are, until it or this goes.

    Args:
        model: in evaluation mode.

    Attributes:
        can_be_captured: whether a graph would do all that the model does: it lies on one device, its weights are plain
            tensors, and none of its parts has a hook of the user's, a foreign `forward`, is compiled or in training.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())
        self._below = [module for module in modules if module is not model]
        self._attributes: list[Mapping[Any, Any]] = [vars(module) for module in self._below]
        for module in modules:
            self._attributes += [module._parameters, module._buffers, module._modules]
            self._attributes += [module._forward_hooks, module._forward_pre_hooks]
        self._values = list(self._all_values())
        self._types = list(map(type, self._below))
        weights = [tensor for module in modules for tensor in _own_tensors(module)]
        self.can_be_captured = (
            all(type(tensor) in _PLAIN for tensor in weights)
            and len({tensor.device for tensor in weights}) == 1
            and not any(module.training for module in modules)
            and not any(map(_has_more_to_do, self._below))
        )
        self._weights = weights if self.can_be_captured else []
        self._versioned = [tensor for tensor in self._weights if not tensor.is_inference()]
        self._places = [list(map(read, self._weights)) for read in _PLACE]
        self._versions = list(map(_of_a_version, self._versioned))

    def is_current(self) -> bool:
        """Whether nothing has changed since."""
        values = list(self._all_values())
        return (
            len(values) == len(self._values)
            and all(map(is_, values, self._values))
            and list(map(type, self._below)) == self._types
            and list(map(_of_a_version, self._versioned)) == self._versions
            and all(list(map(read, self._weights)) == place for read, place in zip(_PLACE, self._places, strict=True))
        )

    def _all_values(self) -> Iterator[Any]:
        return chain.from_iterable(each.values() for each in self._attributes)


def _own_tensors(module: nn.Module) -> Iterator[Tensor]:
    return (tensor for tensor in (*module._parameters.values(), *module._buffers.values()) if tensor is not None)


def _has_more_to_do(module: nn.Module) -> bool:
    """Whether a module's call does something besides its class's `forward`, which a replay would leave out."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    # torch.compile leaves one of the two marks, whether it is given a module or called on one
    own = vars(module).get("forward")  # timm has modules that choose one of their methods
    is_changed = own is not None and getattr(own, "__self__", None) is not module
    is_changed |= module._compiled_call_impl is not None
    return is_changed or not all(map(_is_timms, hooks))


def _is_timms(hook: Any) -> bool:
    """Whether a hook is one of those by which timm collects feature maps: they only note where a tensor is."""
    return str(getattr(getattr(hook, "func", hook), "__module__", "")).startswith("timm.")
