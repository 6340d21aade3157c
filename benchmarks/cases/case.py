"""One thing to measure, done in several ways on the same tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Provider:
    """One way to compute a case.

    Attributes:
        compute: takes the case's tensors by name, gives the output.
        exact: has to agree with the case's other exact providers; False for a floor that computes something cheaper.
    """

    compute: Callable[..., Tensor]
    exact: bool = True


@dataclass(frozen=True)
class Case:
    """An operator at one size.

    Attributes:
        op: name of the operator.
        shape: its size, as one word.
        tensors: inputs and parameters, leaves that require gradients.
        providers: by name.
        baseline: the provider that the others are compared with.
    """

    op: str
    shape: str
    tensors: Mapping[str, Tensor]
    providers: Mapping[str, Provider]
    baseline: str
