"""Providers that compute a case, each by its key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from ..cases import Operators
from ..precision import Precision
from . import operators as ways
from .operators import Unavailable

Wrap = Literal["eager", "optimized", "graph", "compile", "reduce-overhead", "max-autotune"]
COMPILED: tuple[Wrap, ...] = ("compile", "reduce-overhead", "max-autotune")
WITH_GRAPHS: tuple[Wrap, ...] = ("reduce-overhead", "max-autotune")
"""Ways of `torch.compile` that put what they compile into CUDA graphs."""


@dataclass(frozen=True)
class Provider:
    """One way to compute a case.

    Attributes:
        key: value of the option `--provider`.
        label: name in the rows; {dtype} stands for the case's dtype.
        operators: makes the operators for a chain of steps in the given dtype.
        wrap: the function that is put around the network, or what it is made into.
        in_float32: computes in float32 whatever the case's dtype.
        only_half: has nothing of its own to show in a float32 case.
        exact: has to agree with the others; False for a floor that computes something cheaper.
        channels_last: the memory format that it likes its maps in.
        slow_on_cpu: takes part on a CPU only when it is asked for.
    """

    key: str
    label: str
    operators: Callable[[torch.dtype], Operators]
    wrap: Wrap = "eager"
    in_float32: bool = False
    only_half: bool = False
    exact: bool = True
    channels_last: bool = False
    slow_on_cpu: bool = False

    def name(self, precision: Precision) -> str:
        """The provider's name in the rows."""
        return self.label.format(dtype=precision.name)

    def applies(self, precision: Precision) -> bool:
        """Whether the provider has something of its own to show in this dtype."""
        return precision.is_half or not self.only_half


def _ours(chain: torch.dtype) -> Operators:
    return ways.kernels("auto")


def _reference(chain: torch.dtype) -> Operators:
    return ways.kernels("reference")


def exact_way(chain: torch.dtype) -> Operators:
    """torchvision's operator in the chain's own dtype, float32 or float64: what the others are compared with."""
    return ways.torchvision(chain, chain)


def _official(chain: torch.dtype) -> Operators:
    """The operator that a user of autocast gets: torchvision registers it to run in float32 there."""
    return ways.torchvision(torch.float32, chain)


def _at_most_float16(chain: torch.dtype) -> torch.dtype:
    """The fastest dtype that the compiled operators know: they have none for bfloat16."""
    return torch.float16 if chain == torch.bfloat16 else chain


def _fastest_official(chain: torch.dtype) -> Operators:
    return ways.torchvision(_at_most_float16(chain), chain)


def _mmcv(chain: torch.dtype) -> Operators:
    return ways.mmcv(_at_most_float16(chain), chain)


def _dense(chain: torch.dtype) -> Operators:
    return ways.dense()


BASELINE = "torchvision, float32"

PROVIDERS = {
    provider.key: provider
    for provider in (
        Provider("ours", "dyhead_kernels", _ours, channels_last=True),
        Provider("ours-optimized", "dyhead_kernels, optimised", _ours, "optimized", channels_last=True),
        Provider("ours-graph", "dyhead_kernels, CUDA graph", _ours, "graph", channels_last=True),
        Provider("ours-compiled", "dyhead_kernels, compiled", _ours, "compile", channels_last=True),
        Provider(
            "ours-reduce-overhead", "dyhead_kernels, reduce-overhead", _ours, "reduce-overhead", channels_last=True
        ),
        Provider("reference", "reference, float32", _reference, in_float32=True, slow_on_cpu=True),
        Provider("official-float32", BASELINE, exact_way, in_float32=True),
        Provider("official", "torchvision, {dtype} (operator float32)", _official, only_half=True),
        Provider("official-float16", "torchvision, {dtype} (operator float16)", _fastest_official, only_half=True),
        Provider("official-compiled", "torchvision, compiled", _fastest_official, "compile"),
        Provider("official-max-autotune", "torchvision, max-autotune", _fastest_official, "max-autotune"),
        Provider("deformops", "deformops", ways.deformops),
        Provider("deformops-compiled", "deformops, compiled", ways.deformops, "compile"),
        Provider("mmcv", "mmcv", _mmcv),
        Provider("dense", "dense 3x3 convolutions (floor)", _dense, exact=False, channels_last=True),
    )
}

__all__ = ["BASELINE", "COMPILED", "PROVIDERS", "WITH_GRAPHS", "Provider", "Unavailable", "exact_way"]
