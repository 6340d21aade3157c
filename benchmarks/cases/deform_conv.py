"""One modulated deformable 3x3 convolution of the finest map."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..work import TAPS, deform_conv_work, level_shapes
from .case import CHANNELS, Case, Exchangeable, Setup, rounded


class DeformableConvolution(Exchangeable):
    """C to C channels, a bias."""

    def __init__(self, channels: int, generator: torch.Generator) -> None:
        super().__init__()
        weight = torch.randn(channels, channels, 3, 3, generator=generator) / math.sqrt(TAPS * channels)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.randn(channels, generator=generator))

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """(N, C, H, W) -> the same, alone in a tuple."""
        assert self.operators is not None
        return (self.operators.deform_conv(input, offset, mask, self.weight, self.bias),)


def deform_conv(setup: Setup, channels: int = CHANNELS) -> Case:
    """The map of stride 8, offsets of about a pixel."""
    generator = torch.Generator().manual_seed(0)
    height, width = level_shapes(setup.height_px, setup.width_px)[0]

    def activation(drawn: Tensor) -> Tensor:
        return drawn.to(setup.precision.dtype).float().to(setup.device)

    activations = {
        "input": activation(torch.randn(setup.batch, channels, height, width, generator=generator)),
        "offset": activation(torch.randn(setup.batch, 2 * TAPS, height, width, generator=generator)),
        "mask": activation(torch.rand(setup.batch, TAPS, height, width, generator=generator)),
    }
    network = rounded(DeformableConvolution(channels, generator).to(setup.device), setup.precision)
    work = deform_conv_work(setup.batch, (height, width), channels, setup.precision.dtype.itemsize)
    return Case("deform_conv", setup, network, activations, work)
