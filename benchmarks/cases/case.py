"""One thing to measure, as a network whose operators are exchanged."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from dyhead_kernels import BlockParameters
from torch import Tensor, nn

from ..precision import Precision
from ..work import Work

CHANNELS = 256
BLOCKS = 6


class DeformConv(Protocol):
    """A modulated deformable 3x3 convolution with padding 1, shapes as in `torchvision.ops.deform_conv2d`."""

    def __call__(
        self, input: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, stride: int = 1
    ) -> Tensor:
        """(N, C, H, W) -> (N, C_out, H_out, W_out)."""


Blocks = Callable[[Sequence[Tensor], Sequence[BlockParameters]], list[Tensor]]
"""Levels (N, C, H, W), finest first, through a block for each set of parameters."""


@dataclass(frozen=True)
class Operators:
    """One way of computing what is measured."""

    deform_conv: DeformConv
    blocks: Blocks


@dataclass(frozen=True)
class Setup:
    """An image size, a batch, a dtype and a device to build a case for."""

    height_px: int
    width_px: int
    batch: int
    precision: Precision
    device: torch.device

    @property
    def shape(self) -> str:
        """Batch, height and width as a row has them."""
        return f"{self.batch}x{self.height_px}x{self.width_px}px"


class Exchangeable(nn.Module):
    """A part of a network that some `Operators` compute."""

    operators: Operators | None = None


@dataclass(frozen=True)
class Case:
    """A network, its input, and what a training step does with its outputs.

    Attributes:
        op: the name of the case.
        setup: size, batch, dtype, device.
        network: float32 parameters that the case's dtype holds exactly; called with the activations, gives a tuple.
        activations: float32 input by name, likewise exact in the case's dtype.
        work: operations and bytes of a forward pass.
        losses: outputs to losses; without it a training step starts from fixed gradients of the outputs.
        input_gradients: whether a training step also differentiates by the activations.
        is_compared: whether the gate looks at the gradient of the parameter of that name.
    """

    op: str
    setup: Setup
    network: nn.Module
    activations: Mapping[str, Tensor]
    work: Work
    losses: Callable[[Sequence[Tensor]], Mapping[str, Tensor]] | None = None
    input_gradients: bool = True
    is_compared: Callable[[str], bool] = lambda name: True

    def network_with(self, operators: Operators, dtype: torch.dtype, training: bool) -> nn.Module:
        """A copy of the network in a dtype that computes with these operators."""
        network = copy.deepcopy(self.network).to(dtype).train(training)
        for module in network.modules():
            if isinstance(module, Exchangeable):
                module.operators = operators
        return network


def rounded(network: nn.Module, precision: Precision) -> nn.Module:
    """The network with its parameters rounded to what the dtype can hold, so that all dtypes compute the same case."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.to(precision.dtype))
    return network
