"""Speed and correctness of both operators, for Hugging Face's `kernels benchmark`.

Maps are those of an image of 800x1344 pixels at strides 8 to 128, with 256 channels. `kernels` times each workload by
the clock, the host's part included, and shows the time of what it is verified against beside it: torchvision's operator
for the convolution, and the plain reference, which nobody would use for its speed, for a whole block.
"""

from __future__ import annotations

import torch
from kernels.benchmark import Benchmark
from torch import Tensor

CHANNELS, TAPS = 256, 9
SHAPES = ((100, 168), (50, 84), (25, 42), (13, 21), (7, 11))


def usable(device: str) -> str:
    """The device, or the CPU: `kernels` asks what PyTorch was built for, and not what is there."""
    return "cpu" if device == "cuda" and not torch.cuda.is_available() else device


class ModulatedDeformConv(Benchmark):
    """One 3x3 convolution of the finest map, forward."""

    seed = 0

    def setup_float32(self) -> None:
        """Offsets of about a pixel; results below one, which half precision holds to 4e-3."""
        self._setup(torch.float32)

    def setup_bfloat16(self) -> None:
        """The same, rounded."""
        self._setup(torch.bfloat16)

    def _setup(self, dtype: torch.dtype) -> None:
        height, width = SHAPES[0]

        def draw(*shape: int, scale: float = 1.0) -> Tensor:
            return (scale * torch.randn(1, *shape, device=usable(self.device))).to(dtype)

        self.maps = draw(CHANNELS, height, width).contiguous(memory_format=torch.channels_last)
        self.offset, self.mask = draw(2 * TAPS, height, width), draw(TAPS, height, width).sigmoid()
        self.weight = draw(CHANNELS, CHANNELS, 3, 3, scale=0.005)[0]

    def _convolve(self) -> None:
        with torch.no_grad():
            self.out = self.kernel.modulated_deform_conv2d(
                self.maps, self.offset, self.weight, padding=1, mask=self.mask
            )

    def _torchvision(self) -> Tensor:
        from torchvision.ops import deform_conv2d

        inputs = (each.float() for each in (self.maps, self.offset, self.weight))
        return deform_conv2d(*inputs, padding=1, mask=self.mask.float()).to(self.out.dtype)

    def benchmark_float32(self) -> None:
        """By three TF32 products on tensor cores, as exact as float32 sums are."""
        self._convolve()

    def verify_float32(self) -> Tensor:
        """torchvision's operator."""
        return self._torchvision()

    def benchmark_bfloat16(self) -> None:
        """In half precision, sums in float32."""
        self._convolve()

    def verify_bfloat16(self) -> Tensor:
        """torchvision's operator in float32: it has none for bfloat16."""
        return self._torchvision()


class DyHeadBlock(Benchmark):
    """A whole block over five levels, forward."""

    seed = 0

    def setup(self) -> None:
        """Parameters as after some training: offsets of about a pixel, attentions away from their kinks."""

        def draw(*shape: int, scale: float = 1.0, mean: float = 0.0) -> Tensor:
            return mean + scale * torch.randn(shape, device=usable(self.device))

        hidden, fan_in = CHANNELS // 4, TAPS * CHANNELS
        self.parameters = self.kernel.BlockParameters(
            offset_weight=draw(3 * TAPS, CHANNELS, 3, 3, scale=fan_in**-0.5),
            offset_bias=draw(3 * TAPS, scale=0.1),
            conv_weight=draw(3, CHANNELS, CHANNELS, 3, 3, scale=fan_in**-0.5),
            conv_bias=None,
            norm_weight=draw(3, CHANNELS, scale=0.1, mean=1.0),
            norm_bias=draw(3, CHANNELS, scale=0.1),
            scale_weight=draw(CHANNELS, scale=CHANNELS**-0.5),
            scale_bias=draw(1, scale=0.1, mean=1.0),
            relu_weight1=draw(hidden, CHANNELS, scale=CHANNELS**-0.5),
            relu_bias1=draw(hidden, scale=0.1, mean=1.0),
            relu_weight2=draw(4 * CHANNELS, hidden, scale=hidden**-0.5),
            relu_bias2=draw(4 * CHANNELS, scale=0.1),
        )
        positions = sum(height * width for height, width in SHAPES)
        self.pyramid = self.kernel.Pyramid(draw(1, positions, CHANNELS), SHAPES)

    def _attend(self, backend: str) -> Tensor:
        with torch.no_grad():
            found = self.kernel.dyhead_block(self.pyramid, self.parameters, offset_mode="flat", backend=backend)
        return found.values

    def benchmark_float32(self) -> None:
        """Offsets, three convolutions, GroupNorm, scale attention, dynamic ReLU."""
        self.out = self._attend("auto")

    def verify_float32(self) -> Tensor:
        """The same, step by step."""
        return self._attend("reference")
