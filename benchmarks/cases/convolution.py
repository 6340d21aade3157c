"""One modulated deformable 3x3 convolution of one map."""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from dyhead_kernels import modulated_deform_conv2d
from torch import Tensor
from torchvision.ops import deform_conv2d

from benchmarks.cases.case import Case, Provider

N, C, H, W = 1, 256, 80, 100


def convolution(device: torch.device) -> Case:
    """(1, 256, 80, 100), C to C, offsets of about a pixel: level P3 of a 640x800 image."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=generator)).to(device).requires_grad_()

    tensors = {
        "input": normal(N, C, H, W),
        "offset": normal(N, 18, H, W),
        "mask": torch.rand(N, 9, H, W, generator=generator).to(device).requires_grad_(),
        "weight": normal(C, C, 3, 3, scale=1 / math.sqrt(9 * C)),
        "bias": normal(C),
    }
    providers = {
        "dyhead_kernels": Provider(partial(modulated_deform_conv2d, padding=1, backend="torch")),
        "dyhead_kernels reference": Provider(partial(modulated_deform_conv2d, padding=1, backend="reference")),
        "torchvision": Provider(partial(deform_conv2d, padding=1)),
        "dense conv2d (floor)": Provider(_dense, exact=False),
    }
    return Case("deform_conv", f"{N}x{C}x{H}x{W}", tensors, providers, baseline="torchvision")


def _dense(input: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(input, weight, bias, padding=1)
