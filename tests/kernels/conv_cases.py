"""Convolutions to try: settings, random tensors, outputs and gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.kernels.tolerances import assert_near


@dataclass(frozen=True)
class Case:
    """One setting; sizes are unequal on purpose, so that a swapped axis shows."""

    batch: int = 2
    channels: int = 4
    out_channels: int = 6
    size: tuple[int, int] = (5, 7)
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    offset_groups: int = 1
    masked: bool = True
    biased: bool = True

    def tensors(self, dtype: torch.dtype = torch.float64, offset_scale: float = 2.0) -> dict[str, Tensor | None]:
        """Random input, offset, weight, bias and mask, named like the operator's arguments."""
        taps = self.kernel[0] * self.kernel[1] * self.offset_groups
        out = [
            (self.size[a] + 2 * self.padding[a] - self.dilation[a] * (self.kernel[a] - 1) - 1) // self.stride[a] + 1
            for a in range(2)
        ]
        draw = {
            "input": torch.randn(self.batch, self.channels, *self.size),
            "offset": torch.randn(self.batch, 2 * taps, *out) * offset_scale,
            "weight": torch.randn(self.out_channels, self.channels // self.groups, *self.kernel),
            "bias": torch.randn(self.out_channels) if self.biased else None,
            "mask": torch.rand(self.batch, taps, *out) if self.masked else None,
        }
        return {name: None if t is None else t.to(dtype).requires_grad_() for name, t in draw.items()}

    @property
    def geometry(self) -> dict[str, tuple[int, int]]:
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}


CASES = {
    "plain": Case(),
    "no mask, no bias": Case(masked=False, biased=False),
    "stride": Case(stride=(2, 3), size=(7, 9)),
    "no padding, dilation": Case(padding=(0, 0), dilation=(2, 1), size=(6, 5)),
    "wide padding": Case(padding=(3, 2)),
    "uneven kernel": Case(kernel=(1, 2), padding=(0, 1)),
    "offset groups": Case(offset_groups=2),
    "weight groups": Case(groups=2),
    "both groups": Case(channels=12, out_channels=4, groups=2, offset_groups=3),
    "depthwise": Case(out_channels=4, groups=4, offset_groups=4),
    "one pixel": Case(size=(1, 1), batch=1),
    "batch of 3": Case(batch=3, stride=(2, 2)),
}

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def forward_and_gradients(function: Any, tensors: dict[str, Tensor | None], **options: Any) -> dict[str, Tensor]:
    """The output, and the gradient of each tensor for a fixed random gradient of the output."""
    output = function(**tensors, **options)
    named = {name: t for name, t in tensors.items() if t is not None and t.requires_grad}
    generator = torch.Generator().manual_seed(11)
    grad_output = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
    gradients = torch.autograd.grad(output, list(named.values()), grad_output)
    return {"output": output.detach(), **dict(zip(named, gradients, strict=True))}


def in_float64(tensors: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    """The same values as float64 leaves of their own."""
    return {name: None if t is None else t.detach().double().requires_grad_() for name, t in tensors.items()}


def assert_all_near(actual: dict[str, Tensor], expected: dict[str, Tensor], dtype: torch.dtype) -> None:
    for name, tensor in expected.items():
        assert_near(actual[name], tensor, dtype, "forward" if name == "output" else "gradient", name)
